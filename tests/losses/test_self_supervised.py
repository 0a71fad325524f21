"""Losses between views, by brute force."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.losses import nt_xent, prediction_distance


def test_each_view_is_told_from_all_others() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)
    views, tau, total = torch.cat([first, second]).tolist(), 0.3, 0.0
    units = [[x / math.hypot(*row) for x in row] for row in views]
    for i in range(10):
        cosines = [sum(a * b for a, b in zip(units[i], units[j], strict=True)) / tau for j in range(10)]
        others = sum(math.exp(c) for j, c in enumerate(cosines) if j != i)
        total -= math.log(math.exp(cosines[(i + 5) % 10]) / others)
    assert float(nt_xent(first, second, tau=tau)) == pytest.approx(total / 10, rel=1e-5)
    # equal views of equal pictures cannot be told apart: 2 B - 1 candidates
    same = torch.ones(4, 3)
    assert float(nt_xent(same, same)) == pytest.approx(math.log(7), rel=1e-5)


def test_the_target_is_only_looked_at() -> None:
    predicted, target = (torch.randn(6, 4, requires_grad=True) for _ in range(2))
    loss = prediction_distance(predicted, target)
    unit = [rows.detach() / rows.detach().norm(dim=1, keepdim=True) for rows in (predicted, target)]
    assert float(loss) == pytest.approx(float((unit[0] - unit[1]).square().sum(1).mean()), rel=1e-5)
    loss.backward()
    assert predicted.grad is not None
    assert target.grad is None
    assert float(prediction_distance(predicted, 3 * predicted)) == pytest.approx(0, abs=1e-6)
