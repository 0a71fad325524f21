"""Boundary IoU, against erosion by SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage

from binderclip.errors import UsageError
from binderclip.segment.metrics.boundary_bands import boundary_iou, inner_band


@pytest.mark.parametrize("ratio", [0.01, 0.03, 0.08])
def test_bands_and_their_iou(ratio):
    rng = np.random.default_rng(0)
    masks = np.stack([ndimage.gaussian_filter(rng.random((50, 70)), 6) > 0.5 for _ in range(4)])
    width = max(1, round(ratio * np.hypot(50, 70)))

    def band(mask):
        inner = ndimage.binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=width)[1:-1, 1:-1]
        return mask & ~inner

    a, b = masks[:2], masks[2:]
    expected = [(band(x) & band(y)).sum() / (band(x) | band(y)).sum() for x, y in zip(a, b, strict=True)]
    found = boundary_iou(torch.from_numpy(a), torch.from_numpy(b), dilation_ratio=ratio)
    assert found.tolist() == pytest.approx(expected)
    assert np.array_equal(inner_band(torch.from_numpy(masks), width).numpy(), np.stack([band(m) for m in masks]))


def test_the_inside_does_not_count():
    truth = torch.zeros(100, 100, dtype=torch.bool)
    truth[10:90, 10:90] = True
    moved = truth.roll(6, 1)
    iou = (truth & moved).sum() / (truth | moved).sum()
    assert float(iou) > 0.8 > 0.6 > float(boundary_iou(moved, truth))
    empty = truth & False
    assert float(boundary_iou(empty, empty)) == 1
    assert float(boundary_iou(empty, truth)) == 0
    with pytest.raises(UsageError):
        boundary_iou(truth, truth[1:])
    with pytest.raises(UsageError):
        boundary_iou(truth, truth, dilation_ratio=0)
