"""What `segment-evaluate` does: presets measured on true label maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from binderclip.display import number_of
from binderclip.tasks.events import skip, start
from binderclip.tasks.models import image_text_model
from binderclip.tasks.request import VerbResult
from binderclip.tasks.verbs.segment.presets import build_segmenters, chosen_parts
from binderclip.tasks.verbs.segment_evaluate.request import SegmentEvaluateRequest

if TYPE_CHECKING:
    from binderclip.segment import Measured


@dataclass(frozen=True)
class PresetMeasures(VerbResult):
    """How well presets label pixels.

    Attributes:
        measured: scores of each.
    """

    whole: ClassVar[bool] = True
    request: SegmentEvaluateRequest
    measured: Measured
    complete: bool = True

    @property
    def title(self) -> str:
        """What was measured on, and by which model."""
        images, classes = number_of(len(self.measured.keys), "image"), number_of(len(self.measured.classes), "class")
        return f"{self.request.data}: {images}, {classes}, {self.request.model}"

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a preset."""
        rows = self.rows()
        ground = ", background left out" if rows[0]["ece_foreground_only"] else ""
        against = f"mean IoU of an image, minus {rows[0]['preset']}'s"
        return ("preset", "mIoU", "pixel accuracy", "boundary F", f"ECE{ground}", against), [
            (
                row["preset"], row["miou"], row["accuracy"],
                *("" if row[name] is None else row[name] for name in ("boundary_f", "ece")),
                "" if row["difference"] is None else _interval(row["difference"]),
            )
            for row in rows
        ]  # fmt: skip

    def rows(self) -> list[dict[str, Any]]:
        """What is said of every preset; None where there was nothing to measure."""
        measured = self.measured
        first = next(iter(measured.scores))
        rows: list[dict[str, Any]] = []
        for name, score in measured.scores.items():
            boundary, calibration = measured.boundaries.get(name), measured.calibration.get(name)
            rows.append(
                {
                    "preset": name,
                    "miou": score.miou,
                    "accuracy": score.accuracy,
                    "boundary_f": None if boundary is None else boundary.mean,
                    "ece": None if calibration is None else calibration.ece,
                    "ece_foreground_only": calibration is not None and calibration.foreground_only,
                    "difference": _or_none(measured.difference(name, first)) if name != first else None,
                }
            )
        return rows

    def as_dict(self) -> dict[str, Any]:
        measured = self.measured
        return {
            "data": self.request.data,
            "model": self.request.model,
            "images": len(measured.keys),
            "presets": self.rows(),
            "per_class": {
                name: dict(zip(measured.classes, _or_none(score.per_class.tolist()), strict=True))
                for name, score in measured.scores.items()
            },
            "skipped": [{"image": key, "reason": reason} for key, reason in measured.skipped],
            "request": self.request.as_document(),
        }


@dataclass(frozen=True)
class _FirstOf:
    """The first label maps of a set."""

    data: Any
    limit: int

    @property
    def classes(self) -> Any:
        return self.data.classes

    @property
    def skipped(self) -> Any:
        return self.data.skipped

    def __iter__(self) -> Any:
        return islice(iter(self.data), self.limit)


def run(request: SegmentEvaluateRequest) -> PresetMeasures:
    """Measure every preset on the same pictures.

    Raises:
        UsageError: an unknown preset, part or setting, or no such data.
        DataError: no picture could be measured.
    """
    from binderclip.data.labelled.label_maps import SCENES, label_maps
    from binderclip.segment import measure_segmenters

    chosen = chosen_parts(request.presets, request.set)  # a wrong name is said before scenes are made
    background = request.background or []
    made = {"n": request.limit, "background": bool(background)}
    data = label_maps(request.data, **made) if request.data in SCENES else label_maps(request.data)
    start("loading the model")
    model = image_text_model(request.model, device=request.device, dtype=request.dtype)
    segmenters = build_segmenters(chosen, model, background=background, size=request.size)
    start("measuring")
    measured = measure_segmenters(segmenters, _FirstOf(data, request.limit), details=True)
    skip(measured.skipped)
    return PresetMeasures(request, measured)


def _or_none(values: Iterable[float]) -> list[float | None]:
    """Numbers for JSON, which has no NaN."""
    return [None if math.isnan(value) else value for value in values]


def _interval(gap: Sequence[float | None]) -> str:
    mean, low, high = gap
    return f"{mean:+.3f}" if low is None else f"{mean:+.3f} ({low:+.3f} to {high:+.3f})"
