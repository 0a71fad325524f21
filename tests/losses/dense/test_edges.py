"""Losses of edge maps (p110, arXiv 2112.02250): as sums over pixels, at their limits, and where they end."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import DEXINED_WEIGHTS, BalancedEdgeBCE, TracingLoss


def example() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 11, 14, generator=g, dtype=torch.float64)
    return logits, (torch.rand(2, 11, 14, generator=g, dtype=torch.float64) > 0.8).double()


def test_equals_the_released_loss_pixel_by_pixel() -> None:
    """BDCN's loss as it was written: probabilities first, counts over the batch, a mean a picture, a sum over them."""
    logits, target = example()
    positives, negatives = float(target.sum()), float((1 - target).sum())
    total = 0.0
    for logit_map, weight in zip(logits.unbind(1), (0.7, 1.1, 1.3), strict=True):
        for one, labels in zip(logit_map.tolist(), target.tolist(), strict=True):
            costs = []
            for row, label_row in zip(one, labels, strict=True):
                for z, y in zip(row, label_row, strict=True):
                    p = 1 / (1 + math.exp(-z))
                    edge = negatives / (positives + negatives) * -math.log(p)
                    other = 1.1 * positives / (positives + negatives) * -math.log(1 - p)
                    costs.append(edge if y else other)
            total += weight * sum(costs) / len(costs)
    assert float(BalancedEdgeBCE(map_weights=(0.7, 1.1, 1.3))(logits, target)) == pytest.approx(total)
    plain = BalancedEdgeBCE()(logits, target)
    assert float(BalancedEdgeBCE(reduction="mean")(logits, target)) == pytest.approx(float(plain) / 2)
    assert float(BalancedEdgeBCE(reduction="sum")(logits, target)) == pytest.approx(float(plain) * 11 * 14)


def test_edges_and_the_rest_weigh_the_same() -> None:
    """With a factor of 1 and one logit everywhere, the two halves of the gradient cancel at a probability of 1/2."""
    _, target = example()
    logit = torch.zeros((), dtype=torch.float64, requires_grad=True)
    BalancedEdgeBCE(negative_factor=1.0)(logit.expand(2, 1, 11, 14), target).backward()
    assert logit.grad is not None
    assert abs(float(logit.grad)) < 1e-12


def test_a_batch_of_one_kind_costs_nothing_and_right_logits_cost_nothing() -> None:
    logits, target = example()
    for kind in (torch.zeros_like(target), torch.ones_like(target)):
        assert float(BalancedEdgeBCE()(logits, kind)) == 0
    right = (2 * target[:, None] - 1) * 1e3
    assert float(BalancedEdgeBCE()(right, target)) == 0
    assert float(TracingLoss()(right, target)) == pytest.approx(0, abs=1e-6)


def test_pixels_left_out_change_neither_counts_nor_costs() -> None:
    logits, target = example()
    counted = torch.ones_like(target, dtype=torch.bool)
    counted[:, :, 9:] = False
    cut = BalancedEdgeBCE(reduction="sum")(logits[..., :9], target[..., :9])
    torch.testing.assert_close(BalancedEdgeBCE(reduction="sum")(logits, target, counted), cut)
    none = BalancedEdgeBCE()(logits, target, torch.zeros_like(counted))
    assert float(none) == 0


def test_the_threshold_is_where_a_label_becomes_an_edge() -> None:
    logits, target = example()
    soft = target * 0.5 + 0.25
    torch.testing.assert_close(BalancedEdgeBCE(threshold=0.75)(logits, soft), BalancedEdgeBCE()(logits, target))
    assert float(BalancedEdgeBCE(threshold=0.76)(logits, soft)) == 0


def test_equals_torchs_weighted_loss() -> None:
    logits, target = example()
    part = float(target.mean())
    weight = torch.where(target > 0, 1 - part, 1.1 * part)
    expected = F.binary_cross_entropy_with_logits(logits[:, 0], target, weight, reduction="sum")
    torch.testing.assert_close(BalancedEdgeBCE(reduction="sum")(logits[:, :1], target), expected)


@pytest.mark.parametrize("radius", [1, 4])
def test_tracing_equals_a_loop_over_windows(radius: int) -> None:
    g = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 1, 12, 15, generator=g, dtype=torch.float64)
    target = torch.zeros(1, 12, 15, dtype=torch.float64)
    target[0, 2, 1:8] = 1
    p, y = logits.sigmoid()[0, 0].numpy(), target[0].numpy()
    height, width = y.shape
    window = lambda a, r, i, j: a[max(i - r, 0) : i + r + 1, max(j - r, 0) : j + r + 1]  # noqa: E731
    traced = texture = 0.0
    near = np.array([[window(y, radius, i, j).max() > 0 for j in range(width)] for i in range(height)])
    for i in range(height):
        for j in range(width):
            if y[i, j]:
                on = window(p * y, radius, i, j).sum()
                beside = window(p * (1 - y) * near, radius, i, j).sum()
                traced -= math.log(on / (on + beside))
            elif not near[i, j]:
                texture -= math.log(1 - window(p, 1, i, j).sum() / 9)
    assert near.mean() < 1
    assert float(TracingLoss(radius=radius, tracing=1, texture=0)(logits, target)) == pytest.approx(traced)
    assert float(TracingLoss(radius=radius, tracing=0, texture=1)(logits, target)) == pytest.approx(texture)
    assert float(TracingLoss(radius=radius)(logits, target)) == pytest.approx(2 * traced + 0.05 * texture)


def test_what_does_not_fit_is_refused() -> None:
    logits, target = example()
    for loss in (BalancedEdgeBCE(), TracingLoss()):
        with pytest.raises(UsageError, match=r"logits must be float \(B, K, H, W\)"):
            loss(logits, target[:, :5])
        with pytest.raises(UsageError, match=r"target must be in \[0, 1\]"):
            loss(logits, target * 2)
        with pytest.raises(UsageError, match=r"target must be in \[0, 1\]"):
            loss(logits, target * math.nan)
    with pytest.raises(UsageError, match="7 map_weights for 3 maps"):
        BalancedEdgeBCE(map_weights=DEXINED_WEIGHTS)(logits, target)
    with pytest.raises(UsageError, match="counted must be as target"):
        BalancedEdgeBCE()(logits, target, torch.ones(2, 11, dtype=torch.bool))
    for settings in ({"negative_factor": -1.0}, {"threshold": 0.0}, {"reduction": "none"}, {"map_weights": (-1.0,)}):
        with pytest.raises(UsageError, match=next(iter(settings))):
            BalancedEdgeBCE(**settings)  # type: ignore[arg-type]
    for name, value in (("radius", 0), ("tracing", -1), ("texture", math.inf), ("threshold", 2)):
        with pytest.raises(UsageError, match=name):
            TracingLoss(**{name: value})  # type: ignore[arg-type]
