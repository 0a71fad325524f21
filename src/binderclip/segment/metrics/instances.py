"""Instance metrics that share one count of areas and intersections a picture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.metrics.accumulator import Accumulator
from binderclip.segment.metrics.coco_ap import THRESHOLDS, CocoAP, coco_average_precision
from binderclip.segment.metrics.instance_overlaps import ARRAYS, Instances, Overlaps, joined, match, overlaps, parted
from binderclip.segment.metrics.sorted_precision import area_under_sorted, counted_predictions, matched_counts


@dataclass(frozen=True)
class PanopticScore:
    """Panoptic quality = segmentation quality x recognition quality, of each class and in the mean.

    Attributes:
        pq: mean over the classes that occur on either side; 1 where there is no instance at all.
        sq: mean over them of the mean IoU of matched pairs, 0 without any.
        rq: mean over them of TP / (TP + FP / 2 + FN / 2).
        classes: those classes, ascending.
        pq_per_class: (C,) of each.
        sq_per_class: (C,) of each.
        rq_per_class: (C,) of each.
        counts: (C, 3) true positives, false positives, false negatives of each.
    """

    pq: float
    sq: float
    rq: float
    classes: tuple[int, ...]
    pq_per_class: Float[np.ndarray, "C"]
    sq_per_class: Float[np.ndarray, "C"]
    rq_per_class: Float[np.ndarray, "C"]
    counts: Int[np.ndarray, "C 3"]


@dataclass(frozen=True)
class InstanceScore:
    """All instance metrics without scores, each in [0, 1].

    Attributes:
        sorted_ap: area under AP over all IoU thresholds (`SortedAP`).
        ap_50: TP / (TP + FP + FN) at IoU > 0.5. This is not COCO's AP, which needs scores.
        ap_75: the same at 0.75.
        mean_ap: its mean over 0.50, 0.55, ..., 0.95.
        pq: panoptic quality at 0.5, mean over classes.
        sq: segmentation quality, mean over classes.
        rq: recognition quality (F1 at 0.5), mean over classes.
        aji: aggregated Jaccard index.
        sbd: symmetric best Dice.
        precision: share of the predictions that are matched at 0.5.
        recall: share of the true instances that are matched at 0.5.
    """

    sorted_ap: float
    ap_50: float
    ap_75: float
    mean_ap: float
    pq: float
    sq: float
    rq: float
    aji: float
    sbd: float
    precision: float
    recall: float


class InstanceMatcher(Accumulator):
    """Predicted and true instances of many pictures, and every instance metric from their intersections.

    A picture is counted once, in `update`; the metrics only read its areas. Only pairs that intersect are kept. All
    metrics pool the pictures' counts unless `image_average` asks for the mean of the pictures' scores, which is another
    number.

    Examples:
        >>> matcher = InstanceMatcher()
        >>> matcher.update(np.array([[1, 1, 1, 0, 2]]), np.array([[7, 7, 0, 0, 9]]))
        >>> matcher.average_precision(0.5), matcher.average_precision(0.75)
        (1.0, 0.3333333333333333)
    """

    rows = frozenset({"lengths", *ARRAYS})

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.images: list[Overlaps] = []

    def update(self, prediction: Instances, target: Instances, **context: Any) -> None:
        """Add the instances of one picture or volume.

        Args:
            prediction, target: integer label maps (0 = nothing) or boolean stacks (N, *S), as in `overlaps`.
            context: its `ignore`, `classes`, `target_classes`, `scores`, `target_crowd`, `target_areas`.

        Raises:
            UsageError: as `overlaps`.
        """
        self.images.append(overlaps(prediction, target, **context))

    def state_dict(self) -> dict[str, Tensor]:
        """The arrays of all pictures one after the other, and the lengths that part them."""
        return joined(self.images)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Accumulator`."""
        self.images = parted(state)

    def compute(self, *, image_average: bool = False) -> InstanceScore:
        """All metrics that need no scores.

        Raises:
            UsageError: update was not called.
        """

        def quality(part: str) -> float:
            return self._score(lambda images: getattr(_panoptic(images, 0.5), part), image_average)

        def share(side: Callable[[int, int, int], int]) -> float:
            return self._score(lambda images: _share(images, side), image_average)

        return InstanceScore(
            self.sorted_ap(image_average=image_average),
            self.average_precision(0.5, image_average=image_average),
            self.average_precision(0.75, image_average=image_average),
            self.mean_average_precision(image_average=image_average),
            quality("pq"),
            quality("sq"),
            quality("rq"),
            self.aggregated_jaccard(image_average=image_average),
            self.symmetric_best_dice(image_average=image_average),
            share(lambda hits, predicted, true: predicted),
            share(lambda hits, predicted, true: true),
        )

    def sorted_ap(self, *, image_average: bool = False, as_published: bool = False) -> float:
        """As `SortedAP`."""

        def score(images: Sequence[Overlaps]) -> float:
            return area_under_sorted(*matched_counts(images, as_published=as_published))

        return self._score(score, image_average)

    def average_precision(self, threshold: float = 0.5, *, image_average: bool = False) -> float:
        """TP / (TP + FP + FN) of the pairs with more than this IoU; 1 where there is no instance at all."""
        return self._score(lambda images: _average_precision(images, threshold), image_average)

    def mean_average_precision(self, thresholds: Sequence[float] = THRESHOLDS, *, image_average: bool = False) -> float:
        """Mean of `instance_average_precision` over thresholds."""
        return float(np.mean([self.average_precision(t, image_average=image_average) for t in thresholds]))

    def panoptic_quality(self, threshold: float = 0.5) -> PanopticScore:
        """Panoptic, segmentation and recognition quality of each class and in the mean, pictures pooled."""
        self._uncrowded()
        return _panoptic(self.images, threshold)

    def aggregated_jaccard(self, *, image_average: bool = False) -> float:
        """Aggregated Jaccard index: intersections with the best predictions over the union of everything."""
        return self._score(_aggregated_jaccard, image_average)

    def symmetric_best_dice(self, *, image_average: bool = False) -> float:
        """The smaller of the mean best Dice of predictions and of true instances."""
        return self._score(_symmetric_best_dice, image_average)

    def coco_average_precision(self, *, max_detections: int = 100) -> CocoAP:
        """COCO's average precision and recall, of predictions with scores; pictures pooled as COCO does."""
        self._check()
        return coco_average_precision(self.images, max_detections=max_detections)

    def _check(self) -> None:
        if not self.images:
            raise UsageError("nothing to score: update was not called")

    def _uncrowded(self) -> None:
        """
        Raises:
            UsageError: crowds, which only COCO's average precision knows.
        """
        self._check()
        if any(bool(image_overlaps.crowd.any()) for image_overlaps in self.images):
            raise UsageError(
                "target_crowd is for coco_average_precision alone: other metrics would count a crowd as one instance; "
                "give its pixels as ignore="
            )

    def _score(self, score: Callable[[Sequence[Overlaps]], float], image_average: bool) -> float:
        self._uncrowded()
        return (
            float(np.mean([score([image_overlaps]) for image_overlaps in self.images]))
            if image_average
            else score(self.images)
        )


def instance_scores(prediction: Instances, target: Instances, **context: Any) -> InstanceScore:
    """All metrics of `InstanceScore` for one picture.

    Args:
        prediction, target: label maps or boolean stacks, as in `overlaps`.
        context: its `ignore`, `classes`, `target_classes`.

    Raises:
        UsageError: as `overlaps`.
    """
    return _one(prediction, target, context).compute()


def instance_average_precision(
    prediction: Instances, target: Instances, *, threshold: float = 0.5, **context: Any
) -> float:
    """TP / (TP + FP + FN) of one picture's pairs with more than `threshold` IoU; see `InstanceMatcher`."""
    return _one(prediction, target, context).average_precision(threshold)


def mean_instance_average_precision(
    prediction: Instances, target: Instances, *, thresholds: Sequence[float] = THRESHOLDS, **context: Any
) -> float:
    """Mean of `instance_average_precision` of one picture over thresholds; see `InstanceMatcher`."""
    return _one(prediction, target, context).mean_average_precision(thresholds)


def panoptic_quality(
    prediction: Instances, target: Instances, *, threshold: float = 0.5, **context: Any
) -> PanopticScore:
    """Panoptic quality of one picture, of each class and in the mean; see `InstanceMatcher`."""
    return _one(prediction, target, context).panoptic_quality(threshold)


def aggregated_jaccard(prediction: Instances, target: Instances, **context: Any) -> float:
    """Aggregated Jaccard index of one picture; see `InstanceMatcher`."""
    return _one(prediction, target, context).aggregated_jaccard()


def symmetric_best_dice(prediction: Instances, target: Instances, **context: Any) -> float:
    """Symmetric best Dice of one picture; see `InstanceMatcher`."""
    return _one(prediction, target, context).symmetric_best_dice()


def _one(prediction: Instances, target: Instances, context: dict[str, Any]) -> InstanceMatcher:
    matcher = InstanceMatcher()
    matcher.update(prediction, target, **context)
    return matcher


def _counts(images: Sequence[Overlaps], threshold: float) -> tuple[int, int, int]:
    """(matched pairs, predictions, true instances)."""
    hits = predicted = true = 0
    for image_overlaps in images:
        pairs = match(image_overlaps, threshold)
        hits += len(pairs.iou)
        predicted += counted_predictions(image_overlaps, pairs.rows)
        true += len(image_overlaps.true)
    return hits, predicted, true


def _average_precision(images: Sequence[Overlaps], threshold: float) -> float:
    hits, predicted, true = _counts(images, threshold)
    either = predicted + true - hits
    return hits / either if either else 1.0


def _share(images: Sequence[Overlaps], side: Callable[[int, int, int], int]) -> float:
    counts = _counts(images, 0.5)
    return counts[0] / side(*counts) if side(*counts) else 1.0


def _panoptic(images: Sequence[Overlaps], threshold: float) -> PanopticScore:
    largest = max((int(c.max()) for f in images for c in (f.classes, f.true_classes) if len(c)), default=-1)
    sums = np.zeros((4, largest + 1))  # matched, predictions, true instances, summed IoU
    for image_overlaps in images:
        pairs = match(image_overlaps, threshold)
        taken = np.zeros(len(image_overlaps.predicted), dtype=bool)
        taken[pairs.rows] = True
        own = image_overlaps.classes[pairs.rows]
        for row, (labels, weights) in enumerate(
            (
                (own, None),
                (image_overlaps.classes[taken | ~image_overlaps.exempt], None),
                (image_overlaps.true_classes, None),
                (own, pairs.iou),
            )
        ):
            sums[row] += np.bincount(labels, weights=weights, minlength=largest + 1)
    classes = np.flatnonzero(sums[1] + sums[2])
    hits, predicted, true, iou = sums[:, classes]
    sq, rq = iou / np.maximum(hits, 1), 2 * hits / (predicted + true)
    pq, mean_sq, mean_rq = (float(v.mean()) if len(classes) else 1.0 for v in (sq * rq, sq, rq))
    counts = np.stack([hits, predicted - hits, true - hits], axis=1).astype(np.int64)
    return PanopticScore(pq, mean_sq, mean_rq, tuple(int(c) for c in classes), sq * rq, sq, rq, counts)


def _aggregated_jaccard(images: Sequence[Overlaps]) -> float:
    intersection = either = 0
    for image_overlaps in images:
        # The largest intersection of each true instance, the first of equal ones.
        order = np.lexsort((image_overlaps.rows, -image_overlaps.areas, image_overlaps.columns))
        _, first = np.unique(image_overlaps.columns[order], return_index=True)
        rows, areas = image_overlaps.rows[order][first], image_overlaps.areas[order][first]
        spare = ~image_overlaps.exempt
        spare[rows] = False
        intersection += int(areas.sum())
        either += int(
            image_overlaps.true.sum()
            + image_overlaps.predicted[rows].sum()
            - areas.sum()
            + image_overlaps.predicted[spare].sum()
        )
    return intersection / either if either else 1.0


def _symmetric_best_dice(images: Sequence[Overlaps]) -> float:
    sides: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for image_overlaps in images:
        ours, true = np.zeros(len(image_overlaps.predicted)), np.zeros(len(image_overlaps.true))
        np.maximum.at(ours, image_overlaps.rows, image_overlaps.dice)
        np.maximum.at(true, image_overlaps.columns, image_overlaps.dice)
        sides[0].append(ours[(ours > 0) | ~image_overlaps.exempt])
        sides[1].append(true)
    ours, true = (np.concatenate(side) for side in sides)
    if not len(ours) and not len(true):
        return 1.0
    return float(min(ours.mean() if len(ours) else 0.0, true.mean() if len(true) else 0.0))
