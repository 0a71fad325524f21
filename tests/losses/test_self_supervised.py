"""Losses between views, by brute force."""

from __future__ import annotations

import pytest
import torch

from binderclip.losses import prediction_distance


def test_the_target_is_only_looked_at() -> None:
    predicted, target = (torch.randn(6, 4, requires_grad=True) for _ in range(2))
    loss = prediction_distance(predicted, target)
    unit = [rows.detach() / rows.detach().norm(dim=1, keepdim=True) for rows in (predicted, target)]
    assert float(loss) == pytest.approx(float((unit[0] - unit[1]).square().sum(1).mean()), rel=1e-5)
    loss.backward()
    assert predicted.grad is not None
    assert target.grad is None
    assert float(prediction_distance(predicted, 3 * predicted)) == pytest.approx(0, abs=1e-6)
