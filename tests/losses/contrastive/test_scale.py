from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from binderclip import errors
from binderclip.losses import LogitScale, clip, clip_rocket


def test_starts_at_clips_value_and_stays_below_its_ceiling():
    scale = LogitScale()
    assert float(scale.value) == pytest.approx(1 / 0.07)
    with torch.no_grad():
        scale.logit_scale.fill_(10.0)
    assert float(scale.value) == pytest.approx(100.0)


def test_beyond_the_ceiling_only_the_way_back_has_a_gradient():
    scale = LogitScale(100.0)
    with torch.no_grad():
        scale.logit_scale.add_(0.01)
    (up,) = torch.autograd.grad(-scale.value, [scale.logit_scale])
    (down,) = torch.autograd.grad(scale.value, [scale.logit_scale])
    assert float(up) == 0.0
    assert float(down) == pytest.approx(100.0)
    optimizer = torch.optim.SGD(scale.parameters(), lr=1e-3)
    scale.value.backward()
    optimizer.step()
    assert float(scale.value) < 100.0


def test_below_the_floor_only_the_way_up_has_a_gradient():
    scale = LogitScale(min=1.0)
    with torch.no_grad():
        scale.logit_scale.fill_(-3.0)
    assert float(scale.value) == 1.0
    (up,) = torch.autograd.grad(-scale.value, [scale.logit_scale])
    (down,) = torch.autograd.grad(scale.value, [scale.logit_scale])
    assert (float(up), float(down)) == (-1.0, 0.0)
    with pytest.raises(errors.UsageError, match="smallest logit scale"):
        LogitScale(0.5, min=1.0)


@pytest.mark.parametrize("make", [clip, clip_rocket])
def test_clips_scales_never_fall_below_1(make):
    """CLIP holds the logarithm in [0, ln 100]: below it every softmax is nearly even, and nothing is learned."""
    for scale in make().scales.values():
        with torch.no_grad():
            scale.logit_scale.fill_(-2.0)
        assert float(scale.value) == 1.0
    assert float(make(init_scale=0.5).scales["main"].value) == pytest.approx(0.5)


def test_settling_changes_the_number_and_not_the_value():
    scale = LogitScale(min=1.0)
    for number, value in ((9.0, 100.0), (-9.0, 1.0), (2.0, math.exp(2.0))):
        with torch.no_grad():
            scale.logit_scale.fill_(number)
        scale.settle()
        assert float(scale.logit_scale.detach().exp()) == pytest.approx(value)
        assert float(scale.value) == pytest.approx(value)
    unbounded = LogitScale(max=None)
    unbounded.settle()
    assert float(unbounded.value) == pytest.approx(1 / 0.07)


def test_below_the_ceiling_the_gradient_is_the_exponentials():
    scale = LogitScale(20.0)
    (grad,) = torch.autograd.grad(3 * scale.value, [scale.logit_scale])
    assert float(grad) == pytest.approx(60.0, rel=1e-6)


def test_shares_a_models_own_parameters():
    model = nn.Module()
    model.logit_scale = nn.Parameter(torch.tensor(math.log(50.0)))
    model.logit_bias = nn.Parameter(torch.tensor(-3.0))
    scale = LogitScale.of(model)
    assert scale.logit_scale is model.logit_scale
    assert scale.logit_bias is model.logit_bias
    assert float(scale.value) == pytest.approx(50.0)


def test_frozen_and_wrong_settings():
    assert not any(p.requires_grad for p in LogitScale(100.0, learnable=False, bias=-1.0).parameters())
    with pytest.raises(errors.UsageError, match="positive"):
        LogitScale(0.0)
    with pytest.raises(errors.UsageError, match="below the initial"):
        LogitScale(200.0)
    with pytest.raises(errors.UsageError, match="logit_scale"):
        LogitScale.of(nn.Linear(2, 2))
