"""One-bit layers (p141, arXiv 2408.14267) against products of signs and autograd of the same by hand."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from binderclip.compress import AGP, BinaryConv2d, BinaryLinear, quantize_groups
from binderclip.errors import UsageError


class HardSign(torch.autograd.Function):
    """A sign with the derivative of hardtanh, written anew."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.sign()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * (ctx.saved_tensors[0].abs() < 1)


def by_hand(layer, x):
    """The published layer: signs, and each output's weights times their mean magnitude."""
    dims = tuple(range(1, layer.weight.ndim))
    weight = HardSign.apply(layer.weight) * layer.weight.abs().mean(dims, keepdim=True)
    if isinstance(layer, nn.Linear):
        return F.linear(HardSign.apply(x), weight, layer.bias)
    return F.conv2d(HardSign.apply(x), weight, layer.bias, layer.stride, layer.padding)


def layers(grad_quant=None):
    torch.manual_seed(0)
    linear = BinaryLinear(6, 5, grad_quant=grad_quant)
    conv = BinaryConv2d(3, 4, 3, stride=2, padding=1, grad_quant=grad_quant)
    return (linear, torch.randn(7, 2, 6)), (conv, torch.randn(5, 3, 8, 8))


@pytest.mark.parametrize("grad_quant", [None, partial(quantize_groups, bits=24)])
def test_values_and_gradients_are_those_of_signs(grad_quant):
    for layer, x in layers(grad_quant):
        with torch.no_grad():
            layer.weight.mul_(3)  # some beyond 1
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        results, gradients = [], []
        for run, leaf in zip((layer, partial(by_hand, layer)), inputs, strict=True):
            layer.zero_grad()
            out = run(leaf)
            (out * torch.linspace(-1, 1, out.numel()).reshape(out.shape)).sum().backward()
            results.append(out.detach())
            gradients.append([leaf.grad, layer.weight.grad.clone(), layer.bias.grad.clone()])
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_each_product_sees_groups_of_its_own():
    calls = []

    def recording(gradient, dim):
        calls.append((tuple(gradient.shape), dim))
        return gradient

    for layer, x in layers(recording):
        layer(x.requires_grad_()).sum().backward()
    assert sorted(calls) == [((5, 4, 4, 4), 0), ((5, 4, 4, 4), 1), ((14, 5), 0), ((14, 5), 0)]


def test_the_weights_see_other_draws_than_the_inputs():
    """Channels that are dropped for the weights are not those that are dropped for the inputs."""
    conv, x = layers(AGP(bits=2))[1]
    x.requires_grad_()
    out = conv(x)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    upstream[:, 0] *= 9
    upstream[1] *= 9
    out.backward(upstream)
    silent = (conv.weight.grad.abs().amax((1, 2, 3)) == 0).sum()
    assert int(silent) == 2, "two of four channels"
    assert int((x.grad.abs().amax((1, 2, 3)) == 0).sum()) == 3, "three of five samples"


def test_gradients_are_unbiased():
    layer, x = layers(partial(quantize_groups, bits=2))[0]
    upstream = torch.randn(7, 2, 5)
    exact, _ = layers()[0]
    expected = torch.autograd.grad(exact(x), exact.weight, upstream)[0]
    draws = torch.stack([torch.autograd.grad(layer(x), layer.weight, upstream)[0] for _ in range(300)])
    error = (draws.mean(0) - expected).abs()
    assert (error <= 4.5 * draws.std(0) / 300**0.5 + 1e-6).all()


def test_the_scale_is_the_least_squares_fit():
    layer, _ = layers()[0]
    out = layer(torch.eye(6) * 2 - 1)  # rows of signs; twice a weight by differences
    signs = layer.weight.sign()
    fit = (layer.weight * signs).sum(1) / signs.square().sum(1)
    step = (out - layer(-torch.ones(6))).T / 2
    torch.testing.assert_close(step, fit[:, None] * signs)


def test_frozen_parts_and_evaluation_ask_for_no_gradient():
    for layer, x in layers(AGP()):
        plain = layer(x)
        with torch.no_grad():
            torch.testing.assert_close(layer(x), plain)
        layer.requires_grad_(False)
        assert not layer(x).requires_grad
    linear = BinaryLinear(6, 5, bias=False, grad_quant=AGP())
    assert linear(torch.randn(6, requires_grad=True)).shape == (5,)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(UsageError, match="grad_quant must be called"):
        BinaryLinear(3, 3, grad_quant=4)
    with pytest.raises(UsageError, match="grad_quant must be called"):
        BinaryConv2d(3, 3, 3, grad_quant="agp")
