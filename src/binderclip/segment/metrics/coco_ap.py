"""Average precision with scores, as COCO defines it: greedy matching, 101 recall points, ten IoU thresholds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from binderclip.segment.metrics.overlaps import Overlaps

#: 0.50, 0.55, ..., 0.95.
THRESHOLDS = tuple(round(0.5 + 0.05 * k, 2) for k in range(10))
RECALLS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class CocoAP:
    """Precision over recall of scored instances; names as in torchmetrics. NaN where no true instance was seen.

    Attributes:
        map: mean over classes and the thresholds 0.50 to 0.95.
        map_50: mean over classes at 0.50.
        map_75: mean over classes at 0.75.
        mar: mean largest recall over classes and thresholds.
        per_class: (C, 10) of each class that occurs and each threshold.
        classes: those classes, ascending.
    """

    map: float
    map_50: float
    map_75: float
    mar: float
    per_class: Float[np.ndarray, "C T"]
    classes: tuple[int, ...]


def coco_average_precision(
    images: Sequence[Overlaps], *, thresholds: Sequence[float] = THRESHOLDS, max_detections: int = 100
) -> CocoAP:
    """COCO's average precision of some pictures.

    In the order of their scores the predictions of a class take the free true instance of largest IoU, if that reaches
    the threshold. Precision is made monotone from the right and read at recalls 0.00, 0.01, ..., 1.00.

    Args:
        images: areas and intersections with scores.
        thresholds: of the IoU; `map_50` and `map_75` are NaN where they are not among them.
        max_detections: of the best predictions of a class in a picture; the rest is left out.
    """
    thresholds = tuple(thresholds)
    classes = np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *(found.true_classes for found in images)]))
    table = np.full((len(classes), len(thresholds)), np.nan)
    recalls = table.copy()
    for row, label in enumerate(classes):
        parts = zip(*(_taken(found, int(label), thresholds, max_detections) for found in images), strict=True)
        scores, hits, counted = (np.concatenate(part, axis=-1) for part in parts)
        order = np.argsort(-scores, kind="stable")
        hits, counted = hits[:, order], counted[:, order]
        true = sum(int((found.true_classes == label).sum()) for found in images)
        for column in range(len(thresholds)):
            table[row, column], recalls[row, column] = _area(hits[column][counted[column]], true)
    at = {t: table[:, k].mean() if len(classes) else math.nan for k, t in enumerate(thresholds)}
    return CocoAP(
        float(table.mean()) if table.size else math.nan,
        float(at.get(0.5, math.nan)),
        float(at.get(0.75, math.nan)),
        float(recalls.mean()) if table.size else math.nan,
        table,
        tuple(int(c) for c in classes),
    )


def _taken(
    found: Overlaps, label: int, thresholds: Sequence[float], limit: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, and for each threshold whether a prediction hits and whether it counts at all."""
    chosen = np.flatnonzero(found.classes == label)
    if not len(chosen):
        nothing = np.zeros((len(thresholds), 0), dtype=bool)
        return np.zeros(0), nothing, nothing
    chosen = chosen[np.argsort(-found.scores[chosen], kind="stable")][:limit]
    iou = found.matrix()[chosen]
    least = np.minimum(thresholds, 1 - 1e-10)
    free = np.ones((len(thresholds), iou.shape[1]), dtype=bool)
    hits = np.zeros((len(thresholds), len(chosen)), dtype=bool)
    every = np.arange(len(thresholds))
    for row in range(len(chosen) if iou.shape[1] else 0):
        values = np.where(free, iou[row], -1.0)
        # Of equal ones COCO takes the last.
        best = iou.shape[1] - 1 - values[:, ::-1].argmax(axis=1)
        hits[:, row] = values[every, best] >= least
        free[every[hits[:, row]], best[hits[:, row]]] = False
    return found.scores[chosen], hits, hits | ~found.exempt[chosen]


def _area(hits: np.ndarray, true: int) -> tuple[float, float]:
    """(average precision, largest recall) of predictions in the order of their scores."""
    right = np.cumsum(hits)
    precision = right / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    recall = right / true
    places = np.searchsorted(recall, RECALLS, side="left")
    read = np.append(precision, 0.0)[places]
    return float(read.mean()), float(recall[-1]) if len(recall) else 0.0
