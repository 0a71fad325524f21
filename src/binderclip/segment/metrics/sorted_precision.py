"""SortedAP: average precision over all IoU thresholds, read where it changes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.metrics.accumulator import Accumulator
from binderclip.segment.metrics.instance_overlaps import Instances, Overlaps, match, overlaps

#: A pair needs more than this IoU to be matched at all.
ANY_OVERLAP = 0.001


class SortedAP(Accumulator):
    """The area under AP as a function of the IoU threshold, whose corners are the IoUs of the matched pairs.

    AP = TP / (TP + FP + FN) of one fixed matching. Metrics at fixed thresholds stand still while a mask gets worse
    between two of them and jump where it crosses one; this one moves with every pixel of every matched object.

    Args:
        image_average: the mean of the images' scores; by default the pairs of all images are pooled into one curve.
        as_published: count every assigned pair as matched, also one whose masks do not overlap, as the authors' code
            does. By default such a pair is one missed and one invented object. The two differ where objects crowd.

    Paper: SortedAP: Rethinking evaluation metrics for instance segmentation (arXiv 2309.04887).

    Examples:
        >>> metric = SortedAP()
        >>> metric.update(np.array([[1, 1, 1, 0]]), np.array([[1, 1, 0, 0]]))
        >>> round(metric.compute(), 4)  # one pair of IoU u: (1 + u) / 2
        0.8333
    """

    settings = ("image_average", "as_published")
    rows = frozenset({"ious", "images"})

    def __init__(self, *, image_average: bool = False, as_published: bool = False) -> None:
        self.image_average, self.as_published = image_average, as_published
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.ious: list[float] = []
        self.missed = self.predicted = 0
        self.images: list[float] = []

    def update(self, prediction: Instances, target: Instances, **context: Any) -> None:
        """Add the instances of one picture.

        Args:
            prediction, target: label maps or boolean stacks, as in `overlaps`.
            context: its `ignore`, `classes`, `target_classes`.

        Raises:
            UsageError: as `overlaps`.
        """
        self.update_overlaps(overlaps(prediction, target, **context))

    def update_overlaps(self, image_overlaps: Overlaps) -> None:
        """Add a picture whose areas are already counted."""
        ious, missed, predicted = matched_counts([image_overlaps], as_published=self.as_published)
        self.ious += ious.tolist()
        self.missed += missed
        self.predicted += predicted
        self.images.append(area_under_sorted(ious, missed, predicted))

    def state_dict(self) -> dict[str, Tensor]:
        """IoU of the matched pairs, scores of the images, numbers of missed instances and of predictions."""
        return {
            "ious": torch.tensor(self.ious, dtype=torch.float64),
            "images": torch.tensor(self.images, dtype=torch.float64),
            "missed": torch.tensor(self.missed),
            "predicted": torch.tensor(self.predicted),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Accumulator`."""
        self.ious, self.images = state["ious"].tolist(), state["images"].tolist()
        self.missed, self.predicted = int(state["missed"]), int(state["predicted"])

    def compute(self) -> float:
        """The score of everything seen, in [0, 1].

        Raises:
            UsageError: update was not called.
        """
        if not self.images:
            raise UsageError("nothing to score: update was not called")
        if self.image_average:
            return float(np.mean(self.images))
        return area_under_sorted(np.array(self.ious), self.missed, self.predicted)

    def curve(self) -> tuple[Float[np.ndarray, "T"], Float[np.ndarray, "T"]]:
        """(thresholds, AP) at the corners of the pooled curve; it starts level at 0 and ends at (1, 0)."""
        return sorted_curve(np.array(self.ious), self.missed, self.predicted)


def sorted_ap(prediction: Instances, target: Instances, *, as_published: bool = False, **context: Any) -> float:
    """`SortedAP` of one picture in one call.

    Args:
        prediction, target: label maps or boolean stacks, as in `overlaps`.
        as_published: as in `SortedAP`.
        context: `ignore`, `classes`, `target_classes` of `overlaps`.

    Raises:
        UsageError: as `overlaps`.
    """
    metric = SortedAP(as_published=as_published)
    metric.update(prediction, target, **context)
    return metric.compute()


def matched_counts(images: Iterable[Overlaps], *, as_published: bool = False) -> tuple[np.ndarray, int, int]:
    """(IoU of all matched pairs, number of true instances without one, number of predictions) of some pictures."""
    ious, missed, predicted = [np.zeros(0)], 0, 0
    for image_overlaps in images:
        pairs = match(image_overlaps, ANY_OVERLAP, as_assigned=as_published)
        ious.append(pairs.iou)
        missed += len(image_overlaps.true) - len(pairs.iou)
        predicted += counted_predictions(image_overlaps, pairs.rows)
    return np.concatenate(ious), missed, predicted


def counted_predictions(image_overlaps: Overlaps, matched: np.ndarray) -> int:
    """All predictions but those that lie in the ignored part and match nothing."""
    return len(image_overlaps.predicted) - int(image_overlaps.exempt.sum()) + int(image_overlaps.exempt[matched].sum())


def sorted_curve(ious: np.ndarray, missed: int, predicted: int) -> tuple[np.ndarray, np.ndarray]:
    """(thresholds, AP) at the matched IoUs, ascending.

    Once k pairs have failed, each of them is a wrong prediction and a missed instance: (T - k) / (predicted + missed +
    k). The value that stands at the k-th IoU is that before its own pair fails.
    """
    failed = np.arange(len(ious))
    return np.sort(ious), (len(ious) - failed) / np.maximum(predicted + missed + failed, 1)


def area_under_sorted(ious: np.ndarray, missed: int, predicted: int) -> float:
    """Trapezoids under the curve; nothing predicted where nothing is scores 1, no match 0."""
    if not len(ious):
        return float(missed == 0 and predicted == 0)
    at, ap = sorted_curve(ious, missed, predicted)
    at, ap = np.concatenate([[0], at, [1]]), np.concatenate([ap[:1], ap, [0]])
    return float(((at[1:] - at[:-1]) * (ap[1:] + ap[:-1])).sum() / 2)
