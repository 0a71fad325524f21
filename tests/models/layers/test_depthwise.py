from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import nn

from binderclip.models.layers.depthwise import TiledDepthwise, depthwise
from binderclip.models.layers.fast_gradients import fast_gradients


@pytest.mark.parametrize("kernel", [(5, 5), (4, 4), (3, 5), (7, 3), (3, 3)])
@pytest.mark.parametrize(
    ("stride", "dilation"), [((1, 1), (1, 1)), ((2, 1), (1, 1)), ((1, 1), (2, 2)), ((1, 1), (1, 3))]
)
@pytest.mark.parametrize("padding", [(0, 0), (2, 1)])
@pytest.mark.parametrize("channels_last", [False, True])
def test_values_and_gradients_are_those_of_the_convolution(kernel, stride, dilation, padding, channels_last):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 6, 16, 15, generator=generator, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last) if channels_last else x
    weight, bias = (
        torch.randn(6, 1, *kernel, generator=generator).double(),
        torch.randn(6, generator=generator).double(),
    )
    inputs = [tensor.requires_grad_() for tensor in (x, weight, bias)]
    ours = depthwise(*inputs, stride=stride, padding=padding, dilation=dilation)
    theirs = F.conv2d(*inputs, stride, padding, dilation, groups=6)
    torch.testing.assert_close(ours, theirs)
    upstream = torch.randn(ours.shape, generator=generator).double()
    for a, b in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("stride", [1, 2])
def test_half_precision_agrees_to_its_rounding(stride):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 8, 5, stride, padding=2, groups=8)
    fast = nn.Conv2d(8, 8, 5, stride, padding=2, groups=8)
    fast.load_state_dict(conv.state_dict())
    fast.__class__ = TiledDepthwise
    images = [torch.randn(2, 8, 12, 12).requires_grad_() for _ in range(2)]
    images[1].data.copy_(images[0].data)
    for image, layer in zip(images, (conv, fast), strict=True):
        with torch.autocast("cpu", torch.bfloat16, enabled=layer is fast):
            out = layer(image)
        assert out.dtype == (torch.bfloat16 if layer is fast else torch.float32)
        out.float().square().sum().backward()
    pairs = [
        (images[1].grad, images[0].grad),
        *((b.grad, a.grad) for a, b in zip(conv.parameters(), fast.parameters(), strict=True)),
    ]
    for ours, exact in pairs:
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, exact, rtol=0.03, atol=0.03 * float(exact.abs().max()))


def test_the_gradient_is_differentiable_itself():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 2, 6, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, 5, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: depthwise(x, w, padding=(2, 2)), (x, weight))
    assert torch.autograd.gradgradcheck(lambda x, w: depthwise(x, w, padding=(2, 2)), (x, weight))


def test_padding_wider_than_the_kernel():
    x, weight = (
        torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(0)).double(),
        torch.ones(2, 1, 3, 3).double(),
    )
    inputs = [x.requires_grad_(), weight.requires_grad_()]
    ours, theirs = depthwise(*inputs, padding=(9, 9)), F.conv2d(*inputs, padding=9, groups=2)
    upstream = torch.linspace(-1, 1, ours.numel(), dtype=torch.float64).view_as(ours)
    for a, b in zip(
        torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    ("conv", "suits"),
    [
        (nn.Conv2d(4, 4, 5, groups=4), True),
        (nn.Conv2d(4, 4, 3, groups=4), False),
        (nn.Conv2d(4, 8, 5, groups=4), False),
        (nn.Conv2d(4, 4, 5, groups=2), False),
        (nn.Conv2d(4, 4, (5, 1), groups=4), False),
        (nn.Conv2d(4, 4, 3, groups=4, dilation=2), True),
        (nn.Conv2d(4, 4, 3, groups=4, stride=2), True),
        (nn.Conv2d(4, 4, 5, groups=4, dilation=2, stride=2), False),
        (nn.Conv2d(4, 4, 5, groups=4, padding="same"), False),
        (nn.Conv2d(4, 4, 5, groups=4, padding=1, padding_mode="reflect"), False),
    ],
)
def test_which_convolutions_take_part(conv, suits):
    assert TiledDepthwise.suits(conv) is suits


@pytest.mark.parametrize(("stride", "dilation"), [(2, 1), (1, 2)])
def test_timms_same_padding(stride, dilation):
    torch.manual_seed(0)
    layer = Conv2dSame(4, 4, 5, stride, dilation=dilation, groups=4)
    x = torch.randn(2, 4, 11, 14, requires_grad=True)
    inputs = [x, *layer.parameters()]
    expected = layer(x)
    upstream = torch.randn(expected.shape)
    exact = torch.autograd.grad(expected, inputs, upstream)
    with fast_gradients(layer):
        assert type(layer) is not Conv2dSame
        found = layer(x)
    torch.testing.assert_close(found, expected)
    for a, b in zip(torch.autograd.grad(found, inputs, upstream), exact, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
