from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import func, nn

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


LAYERS = {
    "5 x 5": lambda: nn.Conv2d(2, 2, 5, padding=2, groups=2),
    "dilated": lambda: nn.Conv2d(2, 2, 3, padding=2, dilation=2, groups=2),
    "strided": lambda: nn.Conv2d(2, 2, (3, 7), 2, padding=3, groups=2),
    "without bias": lambda: nn.Conv2d(2, 2, 4, groups=2, bias=False),
    "timm": lambda: Conv2dSame(2, 2, 5, 2, groups=2),
}


def _in_batches(layer, parameters, x):
    """The Jacobian of all outputs in one call of `torch.autograd.grad`."""
    x = x.clone().requires_grad_()
    inputs = [x, *layer.parameters()]
    out = layer(x).sin().flatten()
    return torch.autograd.grad(out, inputs, torch.eye(len(out)).to(x), is_grads_batched=True)


def _output(layer, parameters, x):
    return func.functional_call(layer, parameters, (x,)).sin()


def _loss(layer, parameters, x):
    return _output(layer, parameters, x[None] if x.ndim == 3 else x).square().sum()


def _along(parameters):
    return {name: torch.linspace(-1, 2, p.numel()).view_as(p).to(p) for name, p in parameters.items()}


TRANSFORMS = {
    "grad": lambda f, p, x: func.grad(_loss, (1, 2))(f, p, x),
    "vmap": lambda f, p, x: func.vmap(lambda one: _output(f, p, one[None]))(x),
    "vmap of grad": lambda f, p, x: func.vmap(func.grad(_loss, (1, 2)), (None, None, 0))(f, p, x),
    "vmap over weights": lambda f, p, x: func.vmap(func.grad(_loss, 1), (None, 0, None))(
        f, {name: torch.stack([value, -2 * value]) for name, value in p.items()}, x
    ),
    "jacrev": lambda f, p, x: func.jacrev(_output, (1, 2))(f, p, x),
    "jacfwd": lambda f, p, x: func.jacfwd(_output, (1, 2))(f, p, x),
    "jvp": lambda f, p, x: func.jvp(lambda p, x: _output(f, p, x), (p, x), (_along(p), x.cos()))[1],
    "hessian": lambda f, p, x: func.hessian(_loss, 1)(f, p, x),
    "batched grad": _in_batches,
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_function_transforms_give_what_they_give_of_the_convolution(layer, transform):
    torch.manual_seed(0)
    layer = LAYERS[layer]().double()
    x = torch.randn(2, 2, 7, 8, dtype=torch.float64)
    parameters = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    expected = TRANSFORMS[transform](layer, parameters, x)
    with fast_gradients(layer):
        assert type(layer) not in (nn.Conv2d, Conv2dSame)
        found = TRANSFORMS[transform](layer, parameters, x)
    torch.testing.assert_close(found, expected)


@pytest.mark.usefixtures("unchecked_annotations")
def test_it_compiles_into_one_graph():
    torch.manual_seed(0)
    layer, x = nn.Conv2d(2, 2, 5, groups=2), torch.randn(1, 2, 8, 8)
    expected = torch.autograd.grad(layer(x).square().sum(), list(layer.parameters()))
    with fast_gradients(layer):
        out = torch.compile(layer, backend="eager", fullgraph=True)(x)
    torch.testing.assert_close(torch.autograd.grad(out.square().sum(), list(layer.parameters())), expected)
