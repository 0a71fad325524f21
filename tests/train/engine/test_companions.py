"""A copy that follows."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.train.engine.companions import MomentumCopy, cosine_momentum


def test_momentum_rises_to_one() -> None:
    assert cosine_momentum(0, 100, 0.996) == pytest.approx(0.996)
    assert cosine_momentum(50, 100, 0.996) == pytest.approx(0.998)
    assert cosine_momentum(100, 100, 0.996) == cosine_momentum(150, 100, 0.996) == 1


def test_one_step_is_the_weighted_mean() -> None:
    torch.manual_seed(0)
    module = nn.Linear(3, 2)
    copy = MomentumCopy(module, start=0.9, steps=10)
    before = copy.copied.weight.clone()
    with torch.no_grad():
        module.weight.add_(1)
    copy.follow(module)
    torch.testing.assert_close(copy.copied.weight, 0.9 * before + 0.1 * (before + 1))
    copy.follow(module)
    momentum = cosine_momentum(1, 10, 0.9)
    torch.testing.assert_close(copy.copied.weight, before + 1 - 0.9 * momentum)
    assert not any(p.requires_grad for p in copy.parameters())
    assert int(copy.state_dict()["step"]) == 2
    with pytest.raises(UsageError, match="lies in"):
        MomentumCopy(module, start=1.5, steps=3)
