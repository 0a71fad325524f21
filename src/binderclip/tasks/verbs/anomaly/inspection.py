"""What `binderclip anomaly` found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.request import VerbResult

if TYPE_CHECKING:
    from torch import Tensor

    from binderclip.data import Inspected, InspectionFolder
    from binderclip.segment.anomaly import Anomalies
    from binderclip.segment.metrics.anomaly import AnomalyScore
    from binderclip.tasks.verbs.anomaly.request import AnomalyRequest

REPORT = "report.html"
FAILED = 3


@dataclass
class Inspection(VerbResult):
    """What was found: pictures in the order of the folder, their scores and maps.

    Attributes:
        settled: the request as it was carried out, with a method and a model.
        folder: the pictures and what is known of them.
        pictures: those that could be read.
        found: their scores and maps.
        normal: normal pictures that were used.
        held: scores of the normal pictures, each compared with the others; None where there are too few or the method
            cannot.
        skipped: (path, reason).
        score: against the truth, or None.
        masks: pictures whose damaged pixels are known.
        overlays: picture's row -> file.
        threshold: score at which a picture fails; None where nothing is judged.
        weak: the sentence that the model is weak on photographs, where it is.
    """

    request: AnomalyRequest
    settled: AnomalyRequest
    folder: InspectionFolder
    pictures: list[Inspected]
    found: Anomalies
    normal: list[Path]
    held: Tensor | None
    skipped: list[tuple[str, str]]
    score: AnomalyScore | None = None
    masks: int = 0
    overlays: dict[int, Path] = field(default_factory=dict)
    threshold: float | None = None
    weak: list[str] = field(default_factory=list)

    @property
    def out(self) -> Path:
        """The folder of the files."""
        return Path(self.request.out)

    @property
    def report(self) -> Path:
        """The page."""
        return self.out / REPORT

    @property
    def against(self) -> str:
        """What pictures were compared with."""
        return f"{len(self.normal)} normal pictures" if self.normal else "words alone"

    def order(self) -> list[int]:
        """Rows, most anomalous first."""
        return self.found.scores.argsort(descending=True, stable=True).tolist()

    def chance(self, row: int) -> float | None:
        """Conformal p-value: how many normal pictures score as high, its own among them, as a share."""
        if self.held is None:
            return None
        return float(1 + (self.held >= self.found.scores[row]).sum()) / (1 + len(self.held))

    def fails(self, row: int) -> bool:
        """Whether a picture is at or above the threshold; never where there is none."""
        return self.threshold is not None and float(self.found.scores[row]) >= self.threshold

    def failed(self) -> int:
        """How many pictures fail."""
        return sum(self.fails(row) for row in range(len(self.pictures)))

    def verdict(self, row: int) -> str:
        """`pass`, `fail` or empty."""
        return "" if self.threshold is None else "fail" if self.fails(row) else "pass"

    def label(self, row: int) -> str:
        """`good`, `damaged` or empty."""
        damaged = self.pictures[row].damaged
        return "" if damaged is None else "damaged" if damaged else "good"

    @property
    def title(self) -> str:
        return (
            f"{number_of(len(self.pictures), 'picture')} of {short_path(self.folder.root)}, most anomalous first; "
            f"{self.settled.method}, {self.settled.model}, {self.against}"
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture, most anomalous first."""
        chance, known, judged = self.held is not None, self.folder.labelled, self.threshold is not None
        columns = ("image", "score", *("p",) * chance, *("known",) * known, *("result",) * judged)
        rows = []
        for row in self.order():
            cells: tuple[Any, ...] = (short_path(self.pictures[row].path), float(self.found.scores[row]))
            cells += (self.chance(row),) * chance + (self.label(row),) * known + (self.verdict(row),) * judged
            rows.append(cells)
        return columns, rows

    def figures(self) -> dict[str, float]:
        """The figures that could be measured against the folder's own labels, by name."""
        return {} if self.score is None else figures(self.score)

    def conclusion(self) -> list[str]:
        """What was measured, how many pictures failed, and where the report is."""
        lines = []
        if self.score is not None:
            values = ", ".join(f"{name} {value:.3f}" for name, value in self.figures().items())
            masks = f" ({number_of(self.masks, 'mask')})" if self.masks else ""
            lines.append(f"{values}{masks}" if values else "only one kind of picture: nothing to measure")
        if self.threshold is not None:
            lines.append(
                f"{self.failed()} of {number_of(len(self.pictures), 'picture')} failed, with a score at or above "
                f"{self.threshold:.4g}"
            )
        return [*lines, f"report {self.report}"]

    def remarks(self) -> list[str]:
        """Whether the model is weak on such pictures."""
        return self.weak

    @property
    def exit_code(self) -> int:
        """3 where a picture fails: told apart from an error, which is 1."""
        return FAILED if self.failed() else 0

    def as_dict(self) -> dict[str, Any]:
        judged = self.threshold is not None
        return {
            "folder": self.folder.root,
            "method": self.settled.method,
            "model": self.settled.model,
            "normal": self.normal,
            "images": [
                {
                    "image": self.pictures[row].path,
                    "score": float(self.found.scores[row]),
                    "p": self.chance(row),
                    "kind": self.pictures[row].kind,
                    "damaged": self.pictures[row].damaged,
                    "overlay": self.overlays.get(row),
                    **({"fails": self.fails(row)} if judged else {}),
                }
                for row in self.order()
            ],
            "measured": None if self.score is None else self.figures(),
            "masks": self.masks,
            "threshold": self.threshold,
            "failed": self.failed() if judged else None,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "report": self.report,
            "request": self.request.as_document(),
        }


def figures(score: AnomalyScore) -> dict[str, float]:
    """The measured figures that exist, by name."""
    import math

    names: dict[str, Callable[[AnomalyScore], float]] = {
        "image AUROC": lambda s: s.image_auroc,
        "image average precision": lambda s: s.image_ap,
        "image best F1": lambda s: s.image_f1_max,
        "pixel AUROC": lambda s: s.pixel_auroc,
        "region overlap (PRO)": lambda s: s.pro,
    }
    return {name: value for name, of in names.items() if not math.isnan(value := of(score))}
