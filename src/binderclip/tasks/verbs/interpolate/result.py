"""What comes of `interpolate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from binderclip.display import number_of
from binderclip.tasks.request import ReportedResult
from binderclip.tasks.verbs.interpolate.request import InterpolateRequest

if TYPE_CHECKING:
    from binderclip.landscape import InterpolationCurve, StragglerReport

CHOSEN, HELD = "to choose by", "held out"
"""Halves of the pictures."""


@dataclass(frozen=True)
class Interpolation(ReportedResult):
    """The models between two others.

    Attributes:
        first, second, source: names.
        count: pictures. named_by: "classes" or "captions".
        curve: of both halves. best: the weight that is best on the first.
        stragglers: None where they were not asked for.
        skipped: (key, reason) of pictures that could not be read.
    """

    whole: ClassVar[bool] = True

    request: InterpolateRequest
    first: str
    second: str
    source: str
    count: int
    named_by: str
    curve: InterpolationCurve
    best: float
    stragglers: StragglerReport | None
    skipped: list[tuple[str, str]]

    @property
    def title(self) -> str:
        """Which models on which data."""
        return f"{self.first} to {self.second} on {self.source}: {number_of(self.count, 'picture')}"

    @property
    def saved(self) -> Path | None:
        """Folder of the best model, where it was saved."""
        return None if self.request.save is None else Path(self.request.save)

    def held_out(self, weight: float) -> float:
        """Accuracy on the held-out half at a weight of the grid."""
        return float(self.curve.quality(HELD)[(self.curve.alphas - weight).abs().argmin()])

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a weight."""
        columns = ("weight of the second", f"accuracy {CHOSEN}", f"accuracy {HELD}", f"loss {HELD}", "")
        accuracy = self.curve.accuracy or {}
        rows = [
            (
                f"{float(alpha):.3g}", f"{float(accuracy[CHOSEN][i]):.3f}", f"{float(accuracy[HELD][i]):.3f}",
                f"{float(self.curve.loss[HELD][i]):.4g}", "best" if float(alpha) == self.best else "",
            )
            for i, alpha in enumerate(self.curve.alphas)
        ]  # fmt: skip
        return columns, rows

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """The layers, those that break the way first."""
        if self.stragglers is None:
            return []
        columns, rows = self.stragglers.table()
        shown = [(name, f"{a:.3f}", f"{b:.3f}", f"{c:.3f}", "yes" if s else "") for name, a, b, c, s in rows]
        return [("layers taken back to the first model: rise of the error", columns, shown)]

    def conclusion(self) -> list[str]:
        """The best weight and the layers, a sentence each."""
        ends = f"{self.held_out(0):.3f} and {self.held_out(1):.3f} at the ends"
        lines = [f"Best weight {self.best:.3g}: accuracy {self.held_out(self.best):.3f} on the held-out half, {ends}."]
        gain = self.curve.gain(HELD)
        way = "above" if gain > 0 else "never above"
        lines.append(f"Between the ends it is {way} the straight line ({gain:+.3f}).")
        if self.stragglers is not None:
            barrier = float(self.stragglers.barrier.max())
            named = ", ".join(self.stragglers.stragglers)
            broken = f"Layers that break the way: {named} (error up to {barrier:.3f} above the line)."
            lines.append(broken if barrier > 0 else "No layer breaks the way.")
        return lines

    def places(self) -> list[str]:
        return super().places() + ([f"model {self.saved}"] if self.saved else [])

    def as_dict(self) -> dict[str, Any]:
        curve, accuracy = self.curve, self.curve.accuracy or {}
        layers = None
        if self.stragglers is not None:
            columns, rows = self.stragglers.table()
            layers = [dict(zip((name.replace(" ", "_") for name in columns), row, strict=True)) for row in rows]
        return {
            "first": self.first, "second": self.second, "data": self.source, "count": self.count,
            "named_by": self.named_by, "best": self.best, "gain": curve.gain(HELD), "alphas": curve.alphas.tolist(),
            "accuracy": {name: values.tolist() for name, values in accuracy.items()},
            "loss": {name: values.tolist() for name, values in curve.loss.items()},
            "layers": layers, "saved": self.saved,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "report": self.report, "request": self.request.as_document(),
        }  # fmt: skip
