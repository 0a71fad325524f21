"""Fake quantisation (p007, arXiv 2502.17055) against a loop over groups, with straight-through gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from binderclip.errors import UsageError
from binderclip.optim import fake_quantize, quantized_linear


def by_hand(weight, bits, size):
    """Group after group, value after value, in Python numbers."""
    flat, result = weight.reshape(-1).tolist(), []
    for start in range(0, len(flat), size):
        group = flat[start : start + size]
        scale = (max(group) - min(group)) / (2**bits - 1)
        zero = min(max(round(-min(group) / scale), 0), 2**bits - 1)
        for value in group:
            level = min(max(round(value / scale) + zero, 0), 2**bits - 1)
            result.append((level - zero) * scale)
    return np.array(result).reshape(weight.shape)


@pytest.mark.parametrize(("bits", "size"), [(4, 64), (4, 7), (2, 16), (8, 1000)])
def test_it_is_the_loop_over_groups(bits, size):
    weight = torch.randn(9, 17, generator=torch.Generator().manual_seed(0))
    ours = fake_quantize(weight, bits, size)
    # at most a rare tie may fall the other way in single precision
    off = np.abs(ours.numpy() - by_hand(weight, bits, size)) > 1e-5
    assert off.mean() < 0.01
    for start in range(0, weight.numel(), size):
        assert len(ours.reshape(-1)[start : start + size].unique()) <= 2**bits


def test_the_error_is_at_most_one_step_and_falls_with_the_bits():
    weight = torch.randn(64, 64, generator=torch.Generator().manual_seed(1))
    errors = []
    for bits in (2, 4, 8):
        groups = weight.reshape(-1, 64)
        step = (groups.amax(1) - groups.amin(1)) / (2**bits - 1)
        error = (fake_quantize(weight, bits, 64) - weight).abs().reshape(-1, 64)
        assert (error <= step[:, None] * 1.001).all()
        errors.append(float(error.mean()))
    assert errors[0] > 3 * errors[1] > 9 * errors[2]


def test_values_on_the_grid_and_equal_values_stay():
    levels = torch.arange(16.0) - 5
    torch.testing.assert_close(fake_quantize(levels, 4, 16), levels, rtol=0, atol=1e-6)
    assert torch.equal(fake_quantize(torch.full((3, 5), 0.3), 4, 4), torch.full((3, 5), 0.3))


def test_gradients_pass_straight_through():
    weight = torch.randn(4, 6, generator=torch.Generator().manual_seed(2), requires_grad=True)
    factor = torch.randn(4, 6, generator=torch.Generator().manual_seed(3))
    (fake_quantize(weight, 2, 8) * factor).sum().backward()
    assert torch.equal(weight.grad, factor)


def test_linear_layers_compute_with_rounded_weights_and_train_the_full_ones():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Conv1d(16, 16, 1), nn.Linear(16, 4))
    plain = net[0].weight.detach().clone()
    assert quantized_linear(net, bits=3, group_size=32, exclude="3") is net
    assert parametrize.is_parametrized(net[0], "weight")
    assert not parametrize.is_parametrized(net[3])
    x = torch.randn(5, 8)
    torch.testing.assert_close(net[0](x), x @ fake_quantize(plain, 3, 32).T + net[0].bias)
    names = dict(net.named_parameters())
    full = names["0.parametrizations.weight.original"]
    optimizer = torch.optim.SGD([full], lr=1e-3)
    net[0](x).square().sum().backward()
    optimizer.step()
    assert not torch.equal(full, plain)
    parametrize.remove_parametrizations(net[0], "weight")
    torch.testing.assert_close(net[0].weight, fake_quantize(full.detach(), 3, 32))


def test_what_makes_no_sense_is_refused():
    for settings, message in (({"bits": 0}, "bits must be"), ({"group_size": 0}, "group_size must be")):
        with pytest.raises(UsageError, match=message):
            quantized_linear(nn.Linear(2, 2), **settings)
        with pytest.raises(UsageError, match=message):
            fake_quantize(torch.zeros(2), **settings)
    with pytest.raises(UsageError, match="nothing to quantise"):
        quantized_linear(nn.Conv1d(1, 1, 1))
    with pytest.raises(UsageError, match="nothing to quantise"):
        quantized_linear(quantized_linear(nn.Linear(2, 2)))
