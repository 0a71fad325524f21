"""Boxes against true boxes: intersections of one picture, and COCO's average precision of many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.metrics.accumulator import Accumulator
from binderclip.segment.metrics.coco_ap import CocoAP, coco_average_precision
from binderclip.segment.metrics.instance_overlaps import ARRAYS, Overlaps, joined, parted, per_instance

Boxes = Float[Tensor, "_ 4"] | Float[np.ndarray, "_ 4"] | Sequence[Sequence[float]]


def box_overlaps(
    boxes: Boxes,
    target_boxes: Boxes,
    *,
    scores: Sequence[float] | Tensor | np.ndarray | None = None,
    classes: Sequence[int] | Tensor | np.ndarray | None = None,
    target_classes: Sequence[int] | Tensor | np.ndarray | None = None,
    target_crowd: Sequence[bool] | Tensor | np.ndarray | None = None,
    target_areas: Sequence[float] | Tensor | np.ndarray | None = None,
) -> Overlaps:
    """Areas and intersections of the boxes of one picture, for `coco_average_precision`.

    Args:
        boxes: predictions, (N, 4) as (x0, y0, x1, y1) in pixels, half-open; COCO's files hold (x, y, width, height).
        target_boxes: true ones, likewise.
        scores: confidence of the predictions; not NaN.
        classes: of the predictions; boxes of different classes never match.
        target_classes: of the true boxes; needed with `classes`.
        target_crowd: which true boxes are crowds (`iscrowd`).
        target_areas: of the true boxes, for COCO's ranges of sizes: its files give those of the masks. None for the
            areas of the boxes.

    Raises:
        UsageError: boxes of another shape, not finite or turned around; other values that do not go with them.
    """
    ours, true = _boxes("boxes", boxes), _boxes("target_boxes", target_boxes)
    if (classes is None) != (target_classes is None):
        raise UsageError("give both classes and target_classes, or neither")
    own = per_instance("classes", classes, len(ours), np.int64, 0)
    other = per_instance("target_classes", target_classes, len(true), np.int64, 0)
    predicted, there = (np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (ours, true))
    inner = np.minimum(ours[:, None, 2:], true[None, :, 2:]) - np.maximum(ours[:, None, :2], true[None, :, :2])
    shared = np.where((inner > 0).all(axis=-1) & (own[:, None] == other), inner[..., 0] * inner[..., 1], 0.0)
    rows, columns = np.nonzero(shared)
    sizes = there if target_areas is None else per_instance("target_areas", target_areas, len(true), np.float64, 0)
    return Overlaps(
        predicted, there, rows, columns, shared[rows, columns], np.arange(len(ours)), np.arange(len(true)), own, other,
        per_instance("scores", scores, len(ours), np.float64, 1), np.zeros(len(ours), dtype=bool),
        per_instance("target_crowd", target_crowd, len(true), np.bool_, 0), sizes, disjoint=False,
    )  # fmt: skip


class BoxMatcher(Accumulator):
    """Predicted and true boxes of many pictures, and COCO's average precision and recall of them.

    Examples:
        >>> matcher = BoxMatcher()
        >>> matcher.update([[0, 0, 10, 10]], [[0, 0, 10, 8]], scores=[0.9])
        >>> matcher.compute().map_50, matcher.compute().map
        (1.0, 0.7)
    """

    rows = frozenset({"lengths", *ARRAYS})

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.images: list[Overlaps] = []

    def update(self, prediction: Boxes, target: Boxes, **context: Any) -> None:
        """Add the boxes of one picture; (0, 4) where there are none.

        Args:
            prediction, target: as in `box_overlaps`.
            context: its `scores`, `classes`, `target_classes`, `target_crowd`, `target_areas`.

        Raises:
            UsageError: as `box_overlaps`.
        """
        self.images.append(box_overlaps(prediction, target, **context))

    def state_dict(self) -> dict[str, Tensor]:
        """The arrays of all pictures one after the other, and the lengths that part them."""
        return joined(self.images, whole=False)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Accumulator`."""
        self.images = parted(state)

    def compute(self, *, max_detections: int = 100) -> CocoAP:
        """The scores of all pictures.

        Args:
            max_detections: as in `coco_average_precision`.

        Raises:
            UsageError: update was not called.
        """
        if not self.images:
            raise UsageError("nothing to score: update was not called")
        return coco_average_precision(self.images, max_detections=max_detections)


def _boxes(name: str, given: Any) -> Float[np.ndarray, "N 4"]:
    boxes = given.detach().cpu().numpy() if isinstance(given, Tensor) else np.asarray(given)
    boxes = boxes.astype(np.float64).reshape(0, 4) if not boxes.size else boxes.astype(np.float64)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UsageError(f"{name} has shape {boxes.shape}; boxes are (N, 4): x0, y0, x1, y1")
    if not bool(np.isfinite(boxes).all()):
        raise UsageError(f"{name} holds a coordinate that is not finite")
    if bool((boxes[:, 2:] < boxes[:, :2]).any()):
        place = int(np.flatnonzero((boxes[:, 2:] < boxes[:, :2]).any(axis=1))[0])
        raise UsageError(f"{name}[{place}] ends before it begins: boxes are x0, y0, x1, y1, not x, y, width, height")
    return boxes
