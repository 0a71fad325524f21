"""Depthwise convolutions whose weights' gradient is put together from windows of 3 x 3."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn

__all__ = ["TiledDepthwise", "TiledDepthwiseSame", "depthwise"]

TILE = 3


def depthwise(
    x: Float[Tensor, "B C H W"],
    weight: Float[Tensor, "C 1 kh kw"],
    bias: Float[Tensor, "C"] | None = None,
    *,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
) -> Float[Tensor, "B C h w"]:
    """A depthwise convolution; on a CPU its gradient takes a fraction of torch's time where the kernel exceeds 3 x 3.

    oneDNN has fast gradients for dense 3 x 3 depthwise kernels only; those of 5 x 5 and of dilated kernels take 10 to
    80 times as long. Three rewritings lead back to what is fast: each weight of a large kernel lies in some window of
    3 x 3, whose gradient is that of a 3 x 3 kernel on a shifted input; a dilated kernel is a dense one on each of the
    grids of every d-th pixel; the gradient of the input is a convolution with the kernel turned round.

    Args:
        x: the input.
        weight, bias: one kernel and one number a channel.
        stride, padding, dilation: (rows, columns); stride or dilation is 1.
    """
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
    function = _Depthwise if torch.compiler.is_compiling() else _DepthwiseWithTangents  # dynamo traces no jvp
    return function.apply(x, weight, bias, tuple(stride), tuple(padding), tuple(dilation))  # type: ignore[no-untyped-call, no-any-return]


class TiledDepthwise(nn.Conv2d):
    """A `Conv2d` that runs as `depthwise` where gradients are on; see `suits` for which ones may become this class."""

    @staticmethod
    def suits(conv: nn.Conv2d) -> bool:
        """Whether a convolution is depthwise, of a kernel that torch is slow with, and zero-padded by numbers."""
        plain = conv.padding_mode == "zeros" and not isinstance(conv.padding, str)
        strided, dilated = max(conv.stride) > 1, max(conv.dilation) > 1
        slow = max(conv.kernel_size) > TILE or strided != dilated
        depthwise = conv.groups == conv.in_channels == conv.out_channels > 1 and min(conv.kernel_size) >= TILE
        return depthwise and slow and plain and not (strided and dilated)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        if x.device.type != "cpu" or x.ndim != 4 or not torch.is_grad_enabled() or isinstance(self.padding, str):
            return super().forward(x)
        how = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        return depthwise(x, self.weight, self.bias, **how)


class TiledDepthwiseSame(Conv2dSame):
    """timm's `Conv2dSame`, which pads as TensorFlow does, in the same way."""

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        if x.device.type != "cpu" or x.ndim != 4 or not torch.is_grad_enabled():
            return super().forward(x)  # type: ignore[no-any-return]
        x = pad_same(x, list(self.kernel_size), list(self.stride), list(self.dilation))
        return depthwise(x, self.weight, self.bias, stride=self.stride, dilation=self.dilation)


class _Depthwise(torch.autograd.Function):
    """The convolution with a backward of its own, which is differentiable itself, also by and under `torch.func`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any) -> Tensor:
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups=weight.shape[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, _, *ctx.how = inputs
        ctx.shape = output.shape
        ctx.save_for_backward(x, weight)
        ctx.save_for_forward(x, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, *_ = ctx.needs_input_grad
        input_gradient = _input_gradient(grad, x, weight, *ctx.how) if of_x else None
        weight_gradient = _weight_gradient(grad, x, weight, *ctx.how) if of_weight else None
        return input_gradient, weight_gradient, grad.sum((0, 2, 3)) if of_bias else None, None, None, None


class _DepthwiseWithTangents(_Depthwise):
    """The same, differentiable in forward mode too."""

    @staticmethod
    def jvp(ctx: Any, x: Tensor | None, weight: Tensor | None, bias: Tensor | None, *_: Any) -> Tensor:
        """The tangent of the output: the convolution is linear in each of its inputs."""
        pixels, kernel = ctx.saved_tensors
        stride, padding, dilation = ctx.how
        parts = [
            F.conv2d(image, filters, None, stride, padding, dilation, groups=kernel.shape[0])
            for image, filters in ((x, kernel), (pixels, weight))
            if image is not None and filters is not None
        ]
        if bias is not None:
            parts.append(bias[:, None, None].expand(ctx.shape))
        return torch.stack(parts).sum(0)


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """The gradient of the input."""
    around = [d * (size - 1) - p for d, size, p in zip(dilation, weight.shape[-2:], padding, strict=True)]
    if max(stride) == 1 and min(around) >= 0:
        return F.conv2d(grad, weight.flip(2, 3), None, 1, around, dilation, groups=weight.shape[0])
    # of a strided convolution; in bfloat16 it takes 15 times as long
    kind = torch.float32 if grad.dtype == torch.bfloat16 else grad.dtype
    return _backward(grad.to(kind), x.to(kind), weight.to(kind), stride, padding, dilation, 0).to(grad.dtype)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any) -> Tensor:
    """The gradient of the weights, window by window."""
    rows, columns = weight.shape[-2:]
    padded = F.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    if max(dilation) > 1:
        grad, padded = _interleaved(grad, padded, (rows, columns), dilation)
    # rows and columns of the input that one weight meets
    height, width = ((grad.shape[2 + axis] - 1) * stride[axis] + TILE for axis in (0, 1))
    small = weight[:, :, :TILE, :TILE]
    bands = []
    for top, above in _starts(rows):
        tiles = []
        for left, before in _starts(columns):
            window = padded[:, :, top : top + height, left : left + width]
            part = _backward(grad, window, small, stride, (0, 0), (1, 1), 1)  # (C, 1, 3, 3)
            tiles.append(part.narrow(2, above, TILE - above).narrow(3, before, TILE - before))
        bands.append(torch.cat(tiles, dim=3))
    return torch.cat(bands, dim=2)


def _starts(size: int) -> list[tuple[int, int]]:
    """Where windows begin that cover a kernel of this size, and how much of each the one before covers already."""
    starts = [min(start, size - TILE) for start in range(0, size, TILE)]
    return [(start, max(0, before + TILE - start)) for before, start in zip([-TILE, *starts], starts, strict=False)]


def _interleaved(grad: Tensor, x: Tensor, kernel: Sequence[int], dilation: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Gradient and padded input of a dilated kernel on the grids of every d-th pixel, which become a part of the batch.

    The gradient is filled up with zeros to a multiple of d; the input is brought to the size that belongs to it.
    """
    sides = []
    for axis, (d, size) in enumerate(zip(dilation, kernel, strict=True)):
        out = -(-grad.shape[2 + axis] // d) * d
        sides.append((out - grad.shape[2 + axis], out + d * (size - 1) - x.shape[2 + axis]))
    (below, under), (right, beside) = sides
    return _grids(F.pad(grad, (0, right, 0, below)), dilation), _grids(F.pad(x, (0, beside, 0, under)), dilation)


def _grids(x: Float[Tensor, "B C H W"], dilation: Sequence[int]) -> Float[Tensor, "ddB C h w"]:
    """All grids of every d-th pixel, one after the other along the batch."""
    batch, channels, height, width = x.shape
    rows, columns = dilation
    last = x.permute(0, 2, 3, 1)  # channels last, so that whole pixels are copied
    split = last.reshape(batch, height // rows, rows, width // columns, columns, channels)
    grids = split.permute(2, 4, 0, 1, 3, 5).reshape(-1, height // rows, width // columns, channels)
    return grids.permute(0, 3, 1, 2)


def _backward(grad: Tensor, x: Tensor, weight: Tensor, stride: Any, padding: Any, dilation: Any, which: int) -> Tensor:
    """torch's gradient of a depthwise convolution: 0 for the input's, 1 for the weight's."""
    needed = [which == 0, which == 1, False]
    result = torch.ops.aten.convolution_backward(
        grad, x, weight, None, stride, padding, dilation, False, (0, 0), weight.shape[0], needed
    )
    return result[which]  # type: ignore[no-any-return]
