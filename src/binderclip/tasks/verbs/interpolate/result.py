"""What comes of `interpolate`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch

from binderclip.display import number_of
from binderclip.tasks.request import ReportedResult
from binderclip.tasks.verbs.interpolate.request import InterpolateRequest

if TYPE_CHECKING:
    from binderclip.landscape import InterpolationCurve, StragglerReport

CHOSEN, HELD = "to choose by", "held out"
"""Halves of the pictures."""
ROUNDING = 1e-6
"""Of an accuracy in float32, far below one picture of as many as may be taken."""
MOST_NAMED = 5
"""Layers that a sentence names."""


def chance_difference(error: float, count: int) -> float:
    """How far a fraction of wrong pictures lies from the truth by chance: two standard errors of a proportion.

    Two pictures are added to each side (Agresti and Coull), so that it is not 0 where all or none are wrong.

    Args:
        error: fraction of the pictures, in [0, 1].
        count: pictures.
    """
    p = (error * count + 2) / (count + 4)
    return 2 * math.sqrt(p * (1 - p) / count)


def chance_above_line(error: float, ends: tuple[float, float], weight: float, count: int) -> float:
    """How far a fraction lies above or below the straight line between two others by chance: two standard errors.

    As if each were of other pictures; they are of the same ones, which brings most of them nearer together.

    Args:
        error: fraction of wrong pictures. ends: those at weight 0 and at weight 1.
        weight: where on the line, in [0, 1].
        count: pictures.
    """
    first, second = (chance_difference(end, count) for end in ends)
    return math.hypot(chance_difference(error, count), (1 - weight) * first, weight * second)


class LayerBarrier(NamedTuple):
    """What happens where one layer goes back to the first model.

    Attributes:
        layer: name.
        barrier: largest error above the straight line between the layer's ends. must_exceed: how high one is by which
            pictures are in the sample.
        criticality: largest error above that of the second model. mean_rise: mean error above it.
    """

    layer: str
    barrier: float
    must_exceed: float
    criticality: float
    mean_rise: float

    @property
    def breaks_the_way(self) -> bool:
        """Whether the barrier is more than chance."""
        return self.barrier > self.must_exceed


def _accuracy(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "not known (the loss is not finite)"


def _may_be_chance(count: int, bound: float) -> str:
    return f"on {number_of(count, 'picture')} less than {bound:.3f} may be chance"


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

    @property
    def height(self) -> float:
        """Held-out accuracy at the best weight above the straight line between the ends, 0 at an end.

        The weight is chosen on the other half, so that it is no maximum over weights. NaN where a loss is not finite.
        """
        chord = (1 - self.best) * self.held_out(0) + self.best * self.held_out(1)
        height = self.held_out(self.best) - chord
        return height if math.isfinite(height) else math.nan

    def held_out(self, weight: float) -> float:
        """Accuracy on the held-out half at a weight of the grid; -inf where the loss is not finite."""
        return float(self.curve.quality(HELD)[(self.curve.alphas - weight).abs().argmin()])

    @property
    def layers(self) -> list[LayerBarrier]:
        """The layers in which the models differ, the highest barrier first; none where they were not asked for."""
        report = self.stragglers
        if report is None:
            return []
        bounds = []
        for errors in report.error:
            chord = torch.lerp(errors[0], errors[-1], report.alphas)
            highest = 1 + int((errors - chord)[1:-1].argmax())
            ends = float(errors[0]), float(errors[-1])
            bounds.append(chance_above_line(float(errors[highest]), ends, float(report.alphas[highest]), self._chosen))
        columns = report.barrier.tolist(), bounds, report.criticality.tolist(), report.mean_rise.tolist()
        layers = [LayerBarrier(*row) for row in zip(report.layers, *columns, strict=True)]
        return sorted(layers, key=lambda one: (-one.barrier, -one.criticality))

    @property
    def _chosen(self) -> int:
        """Pictures of the half to choose by: every second one, the first among them."""
        return self.count - self.count // 2

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
        columns = ("layer", "barrier", "must exceed", "criticality", "mean rise", "breaks the way")
        shown = [
            (one.layer, *(f"{x:.3f}" for x in one[1:]), "yes" if one.breaks_the_way else "") for one in self.layers
        ]
        return [("layers taken back to the first model: rise of the error", columns, shown)]

    def conclusion(self) -> list[str]:
        """The best weight and the layers, a sentence each."""
        ends = f"{_accuracy(self.held_out(0))} and {_accuracy(self.held_out(1))} at the ends"
        best = self.held_out(self.best)
        lines = [f"Best weight {self.best:.3g}: accuracy {_accuracy(best)} on the held-out half, {ends}."]
        if self.best in (0, 1):
            lines.append("No model between the ends was better on the half to choose by.")
        elif math.isnan(self.height):
            lines.append("How far that is from the straight line between the ends is not known: a loss is not finite.")
        else:
            count = self.count // 2
            where = "on" if abs(self.height) < ROUNDING else "above" if self.height > 0 else "below"
            bound = chance_above_line(1 - best, (1 - self.held_out(0), 1 - self.held_out(1)), self.best, count)
            chance = f"; {_may_be_chance(count, bound)}" if abs(self.height) <= bound else ""
            lines.append(f"There it is {where} the straight line between the ends ({self.height:+.3f}{chance}).")
        if self.stragglers is not None:
            lines.append(self._layers_in_words())
        return lines

    def _layers_in_words(self) -> str:
        breaking = [one for one in self.layers if one.breaks_the_way]
        highest = (breaking or self.layers)[0]
        chance = _may_be_chance(self._chosen, highest.must_exceed)
        if not breaking:
            return f"No layer breaks the way: the highest barrier is {highest.barrier:.3f} ({highest.layer}); {chance}."
        named = ", ".join(one.layer for one in breaking[:MOST_NAMED])
        more = f" and {len(breaking) - MOST_NAMED} more" if len(breaking) > MOST_NAMED else ""
        return (
            f"Layers that break the way: {named}{more} (error up to {highest.barrier:.3f} above the straight line; "
            f"{chance})."
        )

    def places(self) -> list[str]:
        return super().places() + ([f"model {self.saved}"] if self.saved else [])

    def as_dict(self) -> dict[str, Any]:
        curve, accuracy = self.curve, self.curve.accuracy or {}
        layers = [one._asdict() | {"breaks_the_way": one.breaks_the_way} for one in self.layers]
        return {
            "first": self.first, "second": self.second, "data": self.source, "count": self.count,
            "named_by": self.named_by, "best": self.best, "height": self.height, "alphas": curve.alphas.tolist(),
            "accuracy": {name: values.tolist() for name, values in accuracy.items()},
            "loss": {name: values.tolist() for name, values in curve.loss.items()},
            "layers": None if self.stragglers is None else layers, "saved": self.saved,
            "skipped": [{"image": key, "reason": reason} for key, reason in self.skipped],
            "report": self.report, "request": self.request.as_document(),
        }  # fmt: skip
