"""What `probe` gives: gaps of every grouping, and mitigations beside."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.probe.gaps import GAP_COLUMNS, gap_rows
from binderclip.tasks.verbs.probe.request import ProbeRequest

if TYPE_CHECKING:
    from binderclip.data import ImageTextDataset
    from binderclip.evaluate import GroupReport, PredictionTable

PAGE, FIGURES = "report.html", "probe.json"


@dataclass(frozen=True)
class Mitigation:
    """What one change does to one gap, on the half of the pictures that it was not fitted on.

    Attributes:
        names: the attributes that make the groups. method: in words.
        accuracy: over all pictures of that half.
        measure: what the gap is in.
        lowest, gap: its smallest value over groups, and the largest minus that.
        lowest_group: the group it is reached in.
        n: pictures that it was measured on.
    """

    names: tuple[str, ...]
    method: str
    accuracy: float
    measure: str
    lowest: float
    gap: float
    lowest_group: tuple[Any, ...]
    n: int


@dataclass(frozen=True)
class Probe(VerbResult):
    """All that was measured, written into the folder `request.out`.

    Attributes:
        model, source: names.
        predictions: a row a picture. data: their pictures, row by row.
        reports: one a grouping; `p_adjusted` is over the gaps of all of them.
        mitigations: beside the model as it is, on the same half.
        left_out: what was not measured, and why.
        skipped: (key, reason) of pictures that could not be read.
    """

    request: ProbeRequest
    model: str
    source: str
    predictions: PredictionTable
    data: ImageTextDataset
    reports: list[GroupReport]
    mitigations: list[Mitigation]
    left_out: list[str]
    skipped: list[tuple[str, str]]

    @property
    def report(self) -> Path:
        """The page."""
        return Path(self.request.out) / PAGE

    @property
    def title(self) -> str:
        """Of the first grouping's table."""
        return self._tables()[0][0]

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a gap of the first grouping."""
        return self._tables()[0][1:]

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """Title, columns and rows of every other grouping."""
        return self._tables()[1:]

    def _tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        return [
            (
                f"{self.model} on {self.source}, by {' x '.join(report.names)}: "
                f"{number_of(report.compared, 'group')} compared",
                GAP_COLUMNS,
                gap_rows(report),
            )
            for report in self.reports
        ]

    def remarks(self) -> list[str]:
        """What was not measured, and why."""
        return [f"left out: {line}" for line in self.left_out]

    def places(self) -> list[str]:
        """Where the page is."""
        return [f"report {self.report}"]

    def figures(self) -> dict[str, Any]:
        """What was measured, as plain values."""
        return {
            "model": self.model, "data": self.source, "count": len(self.predictions),
            "classes": list(self.predictions.classes), "reports": [report.as_dict() for report in self.reports],
            "mitigations": [vars(one) for one in self.mitigations],
            "left_out": self.left_out,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
        }  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        return {**self.figures(), "report": self.report, "request": self.request.as_document()}
