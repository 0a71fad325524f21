"""Every accumulator with pictures for it, for the tests in one process and in two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch

from binderclip.segment.metrics import (
    Accumulator,
    BoundaryErrors,
    BoundaryF,
    BoxMatcher,
    CalibrationBins,
    InstanceMatcher,
    IoU,
    ScoreStore,
    SortedAP,
)  # fmt: skip

KINDS: dict[str, Callable[[], Accumulator]] = {
    "iou": lambda: IoU(4),
    "boundary errors": lambda: BoundaryErrors(4, width=3),
    "boundary f": lambda: BoundaryF(4, tolerance=1),
    "calibration": lambda: CalibrationBins(4, bins=5),
    "anomaly": lambda: ScoreStore(bins=64),
    "sorted ap": SortedAP,
    "sorted ap, averaged": lambda: SortedAP(image_average=True),
    "sorted ap, published": lambda: SortedAP(as_published=True),
    "instances": InstanceMatcher,
    "boxes": BoxMatcher,
}
PICTURES = 4


def picture(kind: str, number: int) -> tuple[Any, Any]:
    """(prediction, target) of one picture as the accumulator wants them."""
    generator = torch.Generator().manual_seed(number)
    size = (2, 9, 11)
    if kind == "calibration":
        shape = (size[0], 4, *size[1:])
        return torch.rand(shape, generator=generator).softmax(1), torch.randint(-1, 4, size, generator=generator)
    if kind == "anomaly":
        return torch.rand(size, generator=generator), torch.rand(size, generator=generator) < 0.3 * (number % 2)
    if kind in ("iou", "boundary errors", "boundary f"):
        one, other = (torch.randint(0, 4, (2, 3, 4), generator=generator) for _ in range(2))
        grow = [torch.repeat_interleave(torch.repeat_interleave(m, 3, -2), 3, -1) for m in (one, other)]
        return grow[0], torch.where(torch.rand(grow[0].shape, generator=generator) < 0.7, grow[0], grow[1])
    rng = np.random.default_rng(number)
    if kind == "boxes":
        # All equally far off, as without scores it depends on the order of the pictures which mistake comes first.
        corners = 40.0 * np.stack([np.arange(4 + number), rng.integers(0, 3, 4 + number)], axis=1)
        boxes = np.concatenate([corners, corners + 20], axis=1)
        return boxes[:3] + 1.5, boxes
    labels = rng.integers(0, 5 + number, (6, 8)).repeat(3, 0).repeat(3, 1)
    if number % 2:
        return labels, np.roll(labels, 1, 1)
    stack = np.stack([labels == k for k in range(1, 5)])
    return stack | np.roll(stack, 1, 2), np.roll(labels, 1, 0)


def filled(kind: str, numbers: Any) -> Accumulator:
    """An accumulator that has seen some pictures."""
    accumulator: Any = KINDS[kind]()
    for number in numbers:
        accumulator.update(*picture(kind, number))
    return accumulator


def flat(result: Any) -> list[float]:
    """All numbers of a result, in order."""
    if is_dataclass(result):
        return [value for field in fields(result) for value in flat(getattr(result, field.name))]
    if isinstance(result, dict):
        return [value for key in sorted(result) for value in flat(result[key])]
    return np.asarray(result, dtype=np.float64).ravel().tolist()
