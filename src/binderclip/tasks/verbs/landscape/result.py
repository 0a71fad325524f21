"""What comes of `landscape`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from binderclip.display import number_of
from binderclip.tasks.request import ReportedResult
from binderclip.tasks.verbs.landscape.request import LandscapeRequest

if TYPE_CHECKING:
    from binderclip.landscape import LossCurve, LossSurface

COLUMNS = ("measure", "value", "which is")
MOST_NAMED = 4
"""Points without a loss whose places are named."""
SIDES = ("left", "right")
"""Of the model on the line."""


@dataclass(frozen=True)
class Landscape(ReportedResult):
    """The loss around a model's weights.

    Attributes:
        model, source: names.
        count: pictures. named_by: "classes" or "captions". texts: how many of them there are.
        loss, accuracy: at the weights as they are.
        curve: along the first direction. surface: over both.
        skipped: (key, reason) of pictures that could not be read.
        unmeasured: steps along both directions of the points that an interruption left; those of the line are not in
            the curve, and NaN on the surface.
    """

    whole: ClassVar[bool] = True

    request: LandscapeRequest
    model: str
    source: str
    count: int
    named_by: str
    texts: int
    loss: float
    accuracy: float
    curve: LossCurve
    surface: LossSurface
    skipped: list[tuple[str, str]]
    unmeasured: frozenset[tuple[float, float]] = frozenset()

    @property
    def title(self) -> str:
        """Which model on which data."""
        return f"{self.model} on {self.source}: {number_of(self.count, 'picture')}"

    @property
    def widths(self) -> tuple[float | None, float | None]:
        """Of the basin along the line, left and right of the model; None where the loss does not rise by 1."""
        left, right = (width if math.isfinite(width) else None for width in self.curve.widths(1.0))
        return left, right

    @property
    def width(self) -> float | None:
        """Of the basin along the line; None where the loss does not rise by 1 on both sides."""
        left, right = self.widths
        return None if left is None or right is None else left + right

    @property
    def gaps(self) -> int:
        """Points of the plane and of the line that were measured and have no finite loss, each once."""
        return len(self._gap_places())

    def _gap_places(self) -> list[tuple[float, float]]:
        """Where the points without a finite loss lie, those of the line before the others."""
        line, plane = self.curve, self.surface
        places = [(alpha, 0.0) for alpha in line.alphas[~line.loss.isfinite()].tolist()]
        beside = [
            (float(plane.alphas[a]), float(plane.betas[b]))
            for a, b in (~plane.loss.isfinite()).nonzero().tolist()
            if plane.betas[b] != 0
        ]
        return places + [place for place in beside if place not in self.unmeasured]

    def _gaps_in_words(self) -> str:
        """How many points have no finite loss, and where the first of them lie."""
        places = self._gap_places()
        named = ", ".join(f"({a:.3g}, {b:.3g})" for a, b in places[:MOST_NAMED])
        more = f" and {len(places) - MOST_NAMED} more" if len(places) > MOST_NAMED else ""
        return f"{number_of(self.gaps, 'point')} without a finite loss, left blank: at {named}{more}"

    def _width_in_words(self) -> str:
        ends = (-float(self.curve.alphas[0]), float(self.curve.alphas[-1]))
        sides = list(zip(self.widths, ends, strict=True))
        left, right = (f"over {end:g}" if side is None else f"{side:.3g}" for side, end in sides)
        over = "over " if self.width is None else ""
        total = sum(end if side is None else side for side, end in sides)
        return f"{over}{total:.3g}" + (f" ({left} to the left, {right} to the right)" if left != right else "")

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a figure with what it means."""
        finite = self.surface.loss[self.surface.loss.isfinite()]
        rows = [
            (
                "loss", f"{self.loss:.4g}",
                f"of the model itself, naming pictures by {self.texts} {self.named_by}; that of guessing is "
                f"{math.log(self.texts):.4g}",
            ),
            ("accuracy", f"{self.accuracy:.3f}", f"of the model itself; chance is {1 / self.texts:.3f}"),
            (
                "width", self._width_in_words(),
                "along the line, between losses that are higher by 1: wider is flatter",
            ),
            ("highest loss", f"{float(finite.max()):.4g}" if len(finite) else "none", "on the plane"),
            ("gaps", str(self.gaps), "points without a finite loss"),
            (
                "cosine", f"{round(self.surface.cosine, 3) or 0:.3f}",  # no -0.000
                "of both directions: near 0 they are at right angles",
            ),
        ]  # fmt: skip
        return COLUMNS, rows

    def remarks(self) -> list[str]:
        """What to know of points that are missing, and of steps that are too long."""
        remarks = [self._gaps_in_words()] if self.gaps else []
        if self.unmeasured:
            remarks.append(f"interrupted: {number_of(len(self.unmeasured), 'point')} not measured, left blank")
        step = self.request.radius / (self.request.points - 1)
        if steep := [
            side for side, width in zip(SIDES, self.widths, strict=True) if width is not None and width < step
        ]:
            remarks.append(
                f"to the {' and the '.join(steep)} the loss is higher by 1 within one step of {step:.2g}, so that the "
                "width there is a guess: give a smaller --radius or more --points"
            )
        return remarks

    def places(self) -> list[str]:
        return super().places() + ([f"numbers {self.report.with_suffix('.json')}"] if self.report else [])

    def as_dict(self) -> dict[str, Any]:
        surface, curve = self.surface, self.curve
        return {
            "model": self.model, "data": self.source, "count": self.count, "named_by": self.named_by,
            "texts": self.texts, "loss": self.loss, "accuracy": self.accuracy, "width": self.width,
            "widths": dict(zip(SIDES, self.widths, strict=True)),
            "gaps": self.gaps, "unmeasured": len(self.unmeasured), "cosine": surface.cosine,
            "curve": {
                "alphas": curve.alphas.tolist(), "loss": curve.loss.tolist(),
                "accuracy": None if curve.accuracy is None else curve.accuracy.tolist(),
            },
            "surface": {
                "alphas": surface.alphas.tolist(), "betas": surface.betas.tolist(), "loss": surface.loss.tolist(),
                "accuracy": None if surface.accuracy is None else surface.accuracy.tolist(),
            },
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "report": self.report, "request": self.request.as_document(),
        }  # fmt: skip
