"""Presets measured on pictures with true label maps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import DataError, UsageError
from binderclip.segment.metrics import BoundaryF, BoundaryFScore, CalibrationBins, CalibrationScore, IoU, IoUScore
from binderclip.segment.metrics.confusion import is_counted
from binderclip.segment.output.result import Segmentation
from binderclip.segment.segmenter import Segmenter, segment_all


@dataclass(frozen=True)
class Measured:
    """What `measure_segmenters` found.

    Attributes:
        classes: names.
        scores: preset -> its scores over all pictures together.
        images: preset -> (N,) mean IoU of the classes that occur in each picture.
        keys: names of the N pictures.
        skipped: (key, reason) of pictures that could not be read.
        boundaries: preset -> F1 of the boundaries within 2 % of the diagonal; only with `details`, and only where a
            counted class meets another one (edges beside ignored pixels do not count).
        calibration: preset -> calibration of the largest probability before thresholds and relabelling; only with
            `details`. Pixels whose true class is named background are left out (`foreground_only` says so).
    """

    classes: tuple[str, ...]
    scores: dict[str, IoUScore]
    images: dict[str, Float[Tensor, "N"]]
    keys: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    boundaries: dict[str, BoundaryFScore] = field(default_factory=dict)
    calibration: dict[str, CalibrationScore] = field(default_factory=dict)

    def difference(self, one: str, other: str, *, draws: int = 2000, seed: int = 0) -> tuple[float, float, float]:
        """Mean difference of two presets over pictures, and its 95 % interval by the paired bootstrap.

        The interval is NaN where all pictures have one difference other than 0, as for a single picture.

        Raises:
            UsageError: a name that was not measured.
        """
        for name in (one, other):
            if name not in self.images:
                raise UsageError(f"{name!r} was not measured; there are {', '.join(self.images)}")
        gaps = (self.images[one] - self.images[other]).double()
        if float(gaps.abs().max()) > 0 and float(gaps.max() - gaps.min()) < 1e-12:
            return float(gaps.mean()), math.nan, math.nan
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(len(gaps), (draws, len(gaps)), generator=generator)
        means = gaps[rows].mean(dim=1)
        low, high = torch.quantile(means, torch.tensor([0.025, 0.975], dtype=means.dtype)).tolist()
        return float(gaps.mean()), low, high


def measure_segmenters(segmenters: Mapping[str, Segmenter], data: Any, *, details: bool = False) -> Measured:
    """Segment every picture by every preset, passes shared, and hold the label maps against the truth.

    Args:
        segmenters: name -> segmenter, all of one model. With a background, its class is matched to the data's class
            `background`.
        details: measure boundaries and calibration, too.
        data: `LabelFolder`, `LabelledScenes`, or anything with `classes` that yields `image`, `labels`, `key`.

    Raises:
        UsageError: no segmenter.
        DataError: no picture that could be measured; what is wrong with the first is said.
    """
    if not segmenters:
        raise UsageError("segmenters is empty")
    classes = tuple(data.classes)
    pooled = {name: IoU(len(classes)) for name in segmenters}
    single: dict[str, list[float]] = {name: [] for name in segmenters}
    detailed = {name: _Details(classes) for name in segmenters} if details else {}
    keys = []
    for sample in _counted(data, len(classes)):
        segmentations = segment_all(list(segmenters.values()), sample.image, _labels(segmenters, classes))
        keys.append(sample.key)
        for name, segmentation in zip(segmenters, segmentations, strict=True):
            labels = _matched(segmentation.labels, segmentation.classes, classes)
            pooled[name].update(labels, sample.labels)
            alone = IoU(len(classes))
            alone.update(labels, sample.labels)
            single[name].append(alone.compute().miou)
            if details:
                detailed[name].update(segmentation, labels, sample.labels)
    if not keys:
        raise DataError(_nothing_measured(list(getattr(data, "skipped", ()))))
    return Measured(
        classes,
        {name: iou.compute() for name, iou in pooled.items()},
        {name: torch.tensor(values) for name, values in single.items()},
        tuple(keys),
        tuple(getattr(data, "skipped", ())),
        {name: each.boundary.compute() for name, each in detailed.items() if each.boundary.counts[2].any()},
        {name: each.bins.compute() for name, each in detailed.items() if each.bins.top[0].any()},
    )


class _Details:
    """Boundaries and calibration of one preset."""

    def __init__(self, classes: Sequence[str]) -> None:
        ground = "background" in classes
        self.classes, self.boundary = classes, BoundaryF(len(classes))
        self.bins = CalibrationBins(
            len(classes), foreground_only=ground, background=classes.index("background") if ground else 0,
            per_class=False,
        )  # fmt: skip

    def update(self, segmentation: Segmentation, labels: Int[Tensor, "H W"], truth: Int[Tensor, "H W"]) -> None:
        self.boundary.update(labels, truth)
        guess, confidence = segmentation.most_probable()
        # Rounding may leave the exponential of a logarithm a little above 1.
        self.bins.update_guesses(confidence.clamp(max=1), _matched(guess, segmentation.classes, self.classes), truth)


def _counted(data: Iterable[Any], classes: int) -> Iterable[Any]:
    """Pictures of which at least one pixel counts."""
    return (sample for sample in data if bool(is_counted(sample.labels, classes, -1).any()))


def _nothing_measured(skipped: Sequence[tuple[str, str]]) -> str:
    if not skipped:
        return "no picture could be measured: there is none in which a labelled pixel counts"
    key, reason = skipped[0]
    others = f" (and {len(skipped) - 1} more)" if len(skipped) > 1 else ""
    return f"no picture could be measured: {reason if key in reason else f'{key}: {reason}'}{others}"


def _labels(segmenters: Mapping[str, Segmenter], classes: Sequence[str]) -> list[str]:
    """What is asked for: the classes, without the one that the segmenters have words of their own for."""
    own = any(each.parts.text.background for each in segmenters.values())
    return [name for name in classes if not (own and name == "background")]


def _matched(labels: Int[Tensor, "H W"], names: Sequence[str], classes: Sequence[str]) -> Int[Tensor, "H W"]:
    """Indices of the segmentation's classes as those of the data."""
    place = torch.tensor([classes.index(name) if name in classes else -1 for name in names] + [-1])
    return place[labels.long().cpu()]
