from __future__ import annotations

import math

import pytest
import torch
from timm.utils import adaptive_clip_grad
from torch import nn

from binderclip import errors
from binderclip.optim import AGC, unit_dims


def parameters_of(shapes, seed=0, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    result = []
    for shape in shapes:
        weight = nn.Parameter(torch.randn(shape, generator=generator, dtype=dtype))
        weight.grad = scale * torch.randn(shape, generator=generator, dtype=dtype)
        result.append(weight)
    return result


SHAPES = [(4, 3, 2, 2), (5, 7), (5,), (3, 4, 5), (6, 3, 2, 2, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("clipping", [0.01, 0.5, 2.0])
def test_the_same_as_timm(clipping, dtype):
    ours, theirs = (parameters_of(SHAPES, scale=0.7, dtype=dtype) for _ in range(2))
    with torch.no_grad():
        for params in (ours, theirs):
            params[1][2] = 0.0  # weights of zero may move by clipping * eps
    report = AGC(clipping)(ours)
    adaptive_clip_grad(theirs, clip_factor=clipping)
    assert int(report.clipped.sum()) > 0
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-6, atol=1e-12)


def test_the_same_as_pytorch_optimizer():
    agc = pytest.importorskip("pytorch_optimizer.optimizer.agc").agc
    ours = parameters_of([(4, 3, 2, 2), (5, 7), (5,)])
    expected = [agc(p.detach(), p.grad) for p in parameters_of([(4, 3, 2, 2), (5, 7), (5,)])]
    AGC()(ours)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one.grad, other, rtol=1e-12, atol=0)


def test_every_unit_is_within_its_share_of_the_weights():
    params = parameters_of(SHAPES, scale=3.0)
    AGC(0.04)(params)
    for p in params:
        units = zip(p.detach(), p.grad, strict=True) if p.ndim > 1 else [(p.detach(), p.grad)]
        for weight, grad in units:
            assert float(grad.norm()) <= 0.04 * max(float(weight.norm()), 1e-3) * (1 + 1e-12)


def test_without_a_limit_nothing_changes():
    ours, before = parameters_of(SHAPES), parameters_of(SHAPES)
    AGC(math.inf)(ours)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours, before, strict=True))


def test_weights_of_zero_can_leave_zero():
    weight = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    weight.grad = torch.ones(2, 3, dtype=torch.float64)
    AGC()([weight])
    assert weight.grad.norm(dim=1).tolist() == pytest.approx([1e-5, 1e-5], rel=1e-12)


def test_gradients_and_weights_times_k_give_the_result_times_k():
    ours, theirs = parameters_of(SHAPES), parameters_of(SHAPES)
    with torch.no_grad():
        for p in theirs:
            p.mul_(13.0)
            p.grad.mul_(13.0)
    AGC()(ours)
    AGC()(theirs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(13 * one.grad, other.grad, rtol=1e-12, atol=0)


@pytest.mark.parametrize("by", ["model", "pattern", "function"])
def test_transposed_convolutions_have_their_outputs_second(by):
    model = nn.Sequential(nn.Conv2d(3, 4, 2), nn.ConvTranspose2d(4, 5, 3))
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(0))
    before = model[1].weight.grad.clone()
    rules = {
        "model": unit_dims(model),
        "pattern": {"1.w*": 1},
        "function": lambda name, tensor: 1 if name == "1.weight" else 0,
    }
    assert rules["model"] == {"1.weight": 1}
    report = AGC(unit_dim=rules[by])(model.named_parameters())
    assert report.stat.shape == (4 + 1 + 5 + 1,)
    for channel in range(5):
        weight, grad = model[1].weight.detach()[:, channel], before[:, channel]
        expected = grad * min(1.0, 0.01 * float(weight.norm()) / float(grad.norm()))
        torch.testing.assert_close(model[1].weight.grad[:, channel], expected)


def test_a_bare_transposed_convolution_is_found_too():
    assert unit_dims(nn.ConvTranspose1d(2, 3, 1)) == {"weight": 1}
    with pytest.raises(errors.UsageError, match="unit_dim= goes by name"):
        AGC(unit_dim={"weight": 1})(parameters_of([(2, 2)]))


def test_the_classifier_is_left_out_by_name():
    model = nn.ModuleDict({"body": nn.Linear(3, 4), "head": nn.Linear(4, 2)})
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    AGC(exclude="head.*")(model.named_parameters())
    assert torch.equal(model["head"].weight.grad, torch.ones(2, 4))
    assert float(model["body"].weight.grad.norm()) < 0.1


@pytest.mark.parametrize("wrong", [{"clipping": -0.1}, {"clipping": math.nan}, {"eps": 0.0}])
def test_settings_that_make_no_sense(wrong):
    with pytest.raises(errors.UsageError):
        AGC(**wrong)
