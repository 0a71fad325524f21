"""Exclusion and gradient losses (p022, arXiv 2406.01555): NumPy's differences, their least values, their slopes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.losses import exclusion_loss, gradient_l1


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_gradient_loss_is_that_of_numpys_differences() -> None:
    x, y = drawn(0, 2, 3, 7, 9), drawn(1, 2, 3, 7, 9)
    expected = sum(np.abs(np.diff(x.numpy(), axis=a) - np.diff(y.numpy(), axis=a)).mean() for a in (2, 3))
    assert float(gradient_l1(x, y)) == pytest.approx(expected)


def by_hand(t: np.ndarray, r: np.ndarray, levels: int) -> float:
    """Written from the paper, level by level and axis by axis, halving by means of 2 x 2 pixels."""
    total = 0.0
    for level in range(levels):
        if level:
            t, r = (x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).mean((3, 5)) for x in (t, r))
        for axis in (2, 3):
            g, h = np.diff(t, axis=axis), np.diff(r, axis=axis)
            alpha = 2 * np.abs(g).mean() / (np.abs(h).mean() + 1e-6)
            u, v = (2 / (1 + np.exp(-x)) - 1 for x in (g, alpha * h))
            total += ((u**2 * v**2).mean() + 1e-6) ** 0.25
    return total / levels / 2


@pytest.mark.parametrize("levels", [1, 3])
def test_exclusion_is_the_papers_formula(levels: int) -> None:
    t, r = drawn(0, 2, 3, 16, 24), drawn(1, 2, 3, 16, 24)
    assert float(exclusion_loss(t, r, levels=levels)) == pytest.approx(by_hand(t.numpy(), r.numpy(), levels))


def test_edges_in_different_places_cost_least_and_the_order_counts() -> None:
    t, r = torch.zeros(2, 1, 1, 16, 16, dtype=torch.float64)
    t[..., :, 4:] = 1.0
    r[..., :, 12:] = 0.5
    floor = 1e-6**0.25
    assert float(exclusion_loss(t, r, levels=1)) == pytest.approx(floor)
    assert float(exclusion_loss(t, torch.full_like(t, 0.3))) == pytest.approx(floor)
    assert float(exclusion_loss(t, t, levels=1)) > 5 * floor
    assert float(exclusion_loss(t, 0.5 * t)) == pytest.approx(float(exclusion_loss(t, t)), rel=1e-4)  # by alpha
    assert float(exclusion_loss(0.5 * t, t)) != pytest.approx(float(exclusion_loss(t, t)), rel=1e-2)


def test_its_gradient_is_finite_where_a_layer_is_constant() -> None:
    t, r = torch.full((1, 3, 8, 8), 0.5, requires_grad=True), drawn(1, 1, 3, 8, 8).float().requires_grad_()
    exclusion_loss(t, r).backward()
    assert t.grad is not None
    assert r.grad is not None
    assert bool(t.grad.isfinite().all())
    assert bool(r.grad.isfinite().all())


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="one shape"):
        gradient_l1(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    with pytest.raises(UsageError, match="2 x 2"):
        gradient_l1(torch.zeros(1, 3, 1, 4), torch.zeros(1, 3, 1, 4))
    with pytest.raises(UsageError, match="3 levels need pictures of at least 8 pixels"):
        exclusion_loss(torch.zeros(1, 3, 4, 9), torch.zeros(1, 3, 4, 9))
    with pytest.raises(UsageError, match="levels"):
        exclusion_loss(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), levels=0)
