"""The penalty on crossing control polygons (p091, arXiv 2408.15741): convex, crossed, and unchanged by similarity."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.losses import XingLoss

CONVEX = torch.tensor([[[0.0, 0], [1, 0], [2, 1], [2, 2], [1, 3], [0, 2]]])
# AB to the right, BC up and back, CD down: turns left by 135 degrees, then AB to CD is a turn to the right by 90
CROSSED = torch.tensor([[[0.0, 0], [2, 0], [1, 1], [1, -1], [0.6, -0.6], [0.3, -0.3]]])


def test_a_convex_path_costs_nothing_and_a_crossed_segment_its_sine() -> None:
    assert float(XingLoss()(CONVEX)) == 0
    assert float(XingLoss()(CROSSED)) == pytest.approx(0.5)  # one of two segments, sin 90 degrees
    assert float(XingLoss()(torch.cat([CONVEX, CROSSED]))) == pytest.approx(0.25)
    mirrored = CROSSED * torch.tensor([1.0, -1.0])  # turns right first: the other branch
    assert float(XingLoss()(mirrored)) == pytest.approx(0.5)


def test_rotation_translation_and_scale_change_nothing() -> None:
    points = torch.randn(5, 12, 2, generator=torch.Generator().manual_seed(0))
    angle = 0.7
    turn = torch.tensor([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    value = XingLoss()(points)
    torch.testing.assert_close(XingLoss()(points @ turn * 30 + 100), value, atol=1e-4, rtol=0)
    assert 0.05 < float(value) < 0.95


def test_descent_uncrosses_and_degenerate_points_have_a_finite_gradient() -> None:
    noise = 0.1 * torch.randn(CROSSED.shape, generator=torch.Generator().manual_seed(1))  # a sine of 1 has no slope
    points = (CROSSED + noise).requires_grad_()
    for _ in range(200):
        (gradient,) = torch.autograd.grad(XingLoss()(points), points)
        points = (points - 0.1 * gradient).detach().requires_grad_()
    assert float(XingLoss()(points).detach()) < 0.05
    same = torch.ones(1, 6, 2, requires_grad=True)
    (gradient,) = torch.autograd.grad(XingLoss()(same), same)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("shape", [(1, 4, 2), (0, 6, 2), (6, 2)])
def test_points_of_another_number_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="points"):
        XingLoss()(torch.zeros(shape))
