"""Average precision and recall with scores, as COCO defines them: greedy matching, 101 recall points, crowd regions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.segment.metrics.instance_overlaps import Overlaps

#: 0.50, 0.55, ..., 0.95.
THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
RECALLS = np.linspace(0, 1, 101)
#: Areas in pixels from and to, both included; the picture's own size does not matter.
AREAS = {"all": (0.0, 1e10), "small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
#: Detections a class and picture of `CocoAP.mar_1` and `mar_10`.
FEW = (1, 10)


@dataclass(frozen=True)
class CocoAP:
    """Precision over recall of scored instances; names as in torchmetrics. NaN where no true instance was seen.

    Attributes:
        map: mean over classes and the thresholds 0.50 to 0.95.
        map_50: mean over classes at 0.50.
        map_75: mean over classes at 0.75.
        map_small: `map` of instances of at most 32 x 32 pixels.
        map_medium: of 32 x 32 to 96 x 96 pixels.
        map_large: of at least 96 x 96 pixels.
        mar: mean largest recall over classes and thresholds.
        mar_1: the same of the best detection of each class in each picture.
        mar_10: of the best ten.
        mar_small: `mar` of instances of at most 32 x 32 pixels.
        mar_medium: of 32 x 32 to 96 x 96 pixels.
        mar_large: of at least 96 x 96 pixels.
        per_class: (C, T) average precision of each class that occurs and each threshold; NaN of one that occurs in
            crowds only.
        classes: those classes, ascending.
    """

    map: float
    map_50: float
    map_75: float
    map_small: float
    map_medium: float
    map_large: float
    mar: float
    mar_1: float
    mar_10: float
    mar_small: float
    mar_medium: float
    mar_large: float
    per_class: Float[np.ndarray, "C T"]
    classes: tuple[int, ...]


class Taken(NamedTuple):
    """What the predictions of one class in one picture did, the highest score first.

    Attributes:
        scores: (n,).
        hits: (T, n) took a true instance that counts.
        counted: (T, n) is a hit or a mistake; what took a crowd or an instance of another size is neither.
        true: how many true instances count.
    """

    scores: Float[np.ndarray, "n"]
    hits: np.ndarray
    counted: np.ndarray
    true: int


def coco_average_precision(
    images: Sequence[Overlaps], *, thresholds: Sequence[float] = THRESHOLDS, max_detections: int = 100
) -> CocoAP:
    """COCO's average precision and recall of some pictures: of masks (`overlaps`) or of boxes (`box_overlaps`).

    In the order of their scores the predictions of a class take the free true instance of largest IoU, if that reaches
    the threshold. Precision is made monotone from the right and read at recalls 0.00, 0.01, ..., 1.00. A prediction
    that finds nothing else may lie in a crowd, which any number of predictions do without being mistakes; its IoU with
    one is the share of itself that is inside. Instances of another size than asked for are ignored likewise.

    Args:
        images: areas and intersections with scores.
        thresholds: of the IoU, in (0, 1]; `map_50` and `map_75` are NaN where they are not among them.
        max_detections: of the best predictions of a class in a picture; the rest is left out.

    Raises:
        UsageError: thresholds or max_detections out of range.

    Paper: Lin et al., Microsoft COCO: Common Objects in Context (arXiv 1405.0312); as computed by pycocotools.
    """
    thresholds = tuple(thresholds)
    if not thresholds or not all(0 < t <= 1 for t in thresholds):
        raise UsageError(f"thresholds must be IoUs in (0, 1], at least one; not {thresholds}")
    check_number("max_detections", max_detections, least=1)
    classes = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(overlaps.true_classes for overlaps in images)]))
    parts = _all_taken(images, thresholds, max_detections)
    precision = {name: np.full((len(classes), len(thresholds)), np.nan) for name in AREAS}
    recall = {name: precision["all"].copy() for name in (*AREAS, *FEW)}
    for row, label in enumerate(classes.tolist()):
        for name in AREAS:
            taken = parts[name, label]
            if sum(part.true for part in taken):
                precision[name][row], recall[name][row] = _curve(taken)
        for count in FEW:
            if sum(part.true for part in parts["all", label]):
                recall[count][row] = _recall(parts["all", label], count)
    at = {t: _mean(precision["all"][:, k]) for k, t in enumerate(thresholds)}
    return CocoAP(
        map=_mean(precision["all"]),
        map_50=at.get(0.5, math.nan),
        map_75=at.get(0.75, math.nan),
        map_small=_mean(precision["small"]),
        map_medium=_mean(precision["medium"]),
        map_large=_mean(precision["large"]),
        mar=_mean(recall["all"]),
        mar_1=_mean(recall[1]),
        mar_10=_mean(recall[10]),
        mar_small=_mean(recall["small"]),
        mar_medium=_mean(recall["medium"]),
        mar_large=_mean(recall["large"]),
        per_class=precision["all"],
        classes=tuple(classes.tolist()),
    )


def _mean(table: np.ndarray) -> float:
    """Over what there is."""
    return float(table[~np.isnan(table)].mean()) if not np.isnan(table).all() else math.nan


def _all_taken(
    images: Sequence[Overlaps], thresholds: Sequence[float], limit: int
) -> dict[tuple[str, int], list[Taken]]:
    """By range of areas and class: what happened in each picture where the class is, or is predicted."""
    parts: dict[tuple[str, int], list[Taken]] = {}
    for overlaps in images:
        iou = overlaps.matrix()
        for label in np.union1d(overlaps.classes, overlaps.true_classes).tolist():
            mine, true = np.flatnonzero(overlaps.classes == label), np.flatnonzero(overlaps.true_classes == label)
            mine = mine[np.argsort(-overlaps.scores[mine], kind="stable")][:limit]
            for name, (low, high) in AREAS.items():
                ignored = overlaps.crowd[true] | (overlaps.sizes[true] < low) | (overlaps.sizes[true] > high)
                hits, beside = _taken(iou[np.ix_(mine, true)], ignored, overlaps.crowd[true], thresholds)
                other = (overlaps.predicted[mine] < low) | (overlaps.predicted[mine] > high) | overlaps.exempt[mine]
                taken = Taken(overlaps.scores[mine], hits, hits | ~(beside | other), int((~ignored).sum()))
                parts.setdefault((name, label), []).append(taken)
    return parts


def _taken(
    iou: Float[np.ndarray, "n G"], ignored: np.ndarray, crowd: np.ndarray, thresholds: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """For each threshold and prediction, (T, n): whether it took an instance that counts, or one that does not."""
    hits = np.zeros((len(thresholds), len(iou)), dtype=bool)
    beside = hits.copy()
    if not iou.size:
        return hits, beside
    least = np.minimum(thresholds, 1 - 1e-10)
    free = np.ones((len(thresholds), iou.shape[1]), dtype=bool)
    every = np.arange(len(thresholds))
    for row, values in enumerate(iou):
        # First among those that count; a crowd or an instance of another size only where there is none.
        for taken, among in ((hits, ~ignored), (beside, ignored)):
            offered = np.where(free & among, values, -1.0)
            # Of equal ones COCO takes the last.
            best = iou.shape[1] - 1 - offered[:, ::-1].argmax(axis=1)
            taken[:, row] = (offered[every, best] >= least) & ~hits[:, row]
            gone = taken[:, row] & ~crowd[best]
            free[every[gone], best[gone]] = False
    return hits, beside


def _curve(taken: Sequence[Taken]) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "T"]]:
    """Average precision and largest recall at each threshold, pictures pooled by score."""
    scores, hits, counted = (np.concatenate(part, axis=-1) for part in list(zip(*taken, strict=True))[:3])
    order = np.argsort(-scores, kind="stable")
    true = sum(part.true for part in taken)
    precision = [_area(hit[order][count[order]], true) for hit, count in zip(hits, counted, strict=True)]
    return np.array([area for area, _ in precision]), np.array([recall for _, recall in precision])


def _recall(taken: Sequence[Taken], most: int) -> Float[np.ndarray, "T"]:
    """The share that the best `most` predictions of each picture find."""
    return sum(part.hits[:, :most].sum(axis=1) for part in taken) / sum(part.true for part in taken)


def _area(hits: np.ndarray, true: int) -> tuple[float, float]:
    """(average precision, largest recall) of predictions in the order of their scores."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recall = right / true
    places = np.searchsorted(recall, RECALLS, side="left")
    read = np.append(precision, 0.0)[places]
    return float(read.mean()), float(recall[-1]) if len(recall) else 0.0
