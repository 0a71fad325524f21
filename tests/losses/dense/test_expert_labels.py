"""Losses of experts' labels against torch's own, a loop, and what they must not notice (p093)."""

from __future__ import annotations

import statistics

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.losses import expert_losses, normal_distance, scale_shift_invariant_l1


def by_hand(predicted: list[float], depth: list[float]) -> list[float]:
    pairs = [(p, d) for p, d in zip(predicted, depth, strict=True) if d == d]
    columns = []
    for column in zip(*pairs, strict=True):
        middle = statistics.median_low(column)
        spread = statistics.fmean(abs(v - middle) for v in column)
        columns.append([(v - middle) / spread for v in column])
    return [abs(a - b) for a, b in zip(*columns, strict=True)]


def test_depth_is_the_loop_and_knows_neither_scale_nor_shift() -> None:
    torch.manual_seed(0)
    predicted, depth = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    depth[0, 1], depth[2, :, 0] = torch.nan, torch.nan
    found = scale_shift_invariant_l1(predicted, depth)
    maps = zip(predicted.flatten(1).tolist(), depth.flatten(1).tolist(), strict=True)
    every = [distance for one, other in maps for distance in by_hand(one, other)]
    assert float(found) == pytest.approx(statistics.fmean(every), rel=1e-5)
    scaled = predicted * torch.tensor([3.0, 0.1, 20.0])[:, None, None] + torch.tensor([5.0, -1.0, 0.0])[:, None, None]
    torch.testing.assert_close(scale_shift_invariant_l1(scaled, depth), found)
    torch.testing.assert_close(scale_shift_invariant_l1(predicted, 7 * depth - 2), found)
    assert float(scale_shift_invariant_l1(2 * depth.nan_to_num(9) + 1, depth)) == pytest.approx(0, abs=1e-5)
    assert float(scale_shift_invariant_l1(-depth.nan_to_num(0), depth)) > 1


def test_unknown_depth_has_no_gradient_and_nothing_known_no_loss() -> None:
    predicted, depth = torch.randn(1, 3, 3, requires_grad=True), torch.rand(1, 3, 3)
    depth[0, 0, 0] = torch.nan
    scale_shift_invariant_l1(predicted, depth).backward()
    assert float(predicted.grad[0, 0, 0]) == 0
    assert bool(predicted.grad.isfinite().all())
    assert bool(predicted.grad.any())
    for case in (torch.full((1, 3, 3), torch.nan), torch.ones(1, 3, 3)):
        assert bool(scale_shift_invariant_l1(predicted, case).isfinite())
    assert float(scale_shift_invariant_l1(predicted.detach(), torch.full((1, 3, 3), torch.nan))) == 0
    scale_shift_invariant_l1(torch.zeros(1, 3, 3, requires_grad=True), depth).backward()  # a flat prediction


def test_normals_know_no_length_and_no_unknown_pixel() -> None:
    predicted, normals = torch.randn(2, 3, 4, 4), F.normalize(torch.randn(2, 3, 4, 4), dim=1)
    normals[0, :, 0] = 0
    cosines = [
        1 - float(predicted[b, :, i, j] @ normals[b, :, i, j] / predicted[b, :, i, j].norm())
        for b in range(2) for i in range(4) for j in range(4) if (b, i) != (0, 0)
    ]  # fmt: skip
    found = normal_distance(predicted, normals)
    assert float(found) == pytest.approx(statistics.fmean(cosines), rel=1e-5)
    torch.testing.assert_close(normal_distance(5 * predicted, normals), found)
    assert float(normal_distance(normals, normals)) == pytest.approx(0, abs=1e-6)
    assert float(normal_distance(predicted, torch.zeros_like(normals))) == 0


def test_tasks_are_told_apart_and_summed_by_weight() -> None:
    outputs = {"seg": torch.randn(2, 4, 6, 6), "depth": torch.randn(2, 1, 6, 6), "normals": torch.randn(2, 3, 6, 6)}
    classes = torch.randint(0, 4, (2, 6, 6))
    classes[0, :2] = -1
    labels = {"seg": classes, "depth": torch.rand(2, 6, 6), "normals": torch.randn(2, 3, 6, 6)}
    found = expert_losses(outputs, labels, {"depth": 0.5, "normals": 0.0})
    ce = F.cross_entropy(outputs["seg"], classes.where(classes >= 0, torch.tensor(255)), ignore_index=255)
    torch.testing.assert_close(found.terms["seg"], ce)
    depth = scale_shift_invariant_l1(outputs["depth"][:, 0], labels["depth"])
    torch.testing.assert_close(found.total, ce + 0.5 * depth)
    assert float(expert_losses({}, labels).total) == 0


def test_what_does_not_belong_together_is_refused() -> None:
    outputs, labels = {"seg": torch.zeros(1, 2, 3, 3)}, {"seg": torch.zeros(1, 3, 3).long()}
    with pytest.raises(UsageError, match="task 'seg' has no labels"):
        expert_losses(outputs, {})
    with pytest.raises(UsageError, match="weight of 'depth'"):
        expert_losses(outputs, labels, {"depth": 1.0})
    with pytest.raises(UsageError, match=r"predictions \(1, 2, 3, 3\) for labels"):
        expert_losses(outputs, {"seg": torch.zeros(1, 3, 3)})
    with pytest.raises(UsageError, match="of one shape"):
        scale_shift_invariant_l1(torch.zeros(1, 3, 3), torch.zeros(1, 3, 4))
    with pytest.raises(UsageError, match="of one shape"):
        normal_distance(torch.zeros(1, 3, 3, 3), torch.zeros(1, 3, 3, 4))
