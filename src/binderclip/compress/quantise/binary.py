"""Layers of one bit: weights and activations are signs, and gradients may be quantised on their way back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.optim.fake_quantization import FixedRange, SignGrid, fake_quant
from binderclip.optim.surrogates import ClippedStraightThrough

__all__ = ["BinaryConv2d", "BinaryLinear"]

GradientQuantizer: TypeAlias = Callable[..., Tensor]
"""From a gradient and `dim`, whose slices are the groups, to the gradient that is passed on."""


def _sign(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Signs, with the derivative of hardtanh."""
    return fake_quant(x, FixedRange(-1.0, 1.0), SignGrid(), surrogate=ClippedStraightThrough(inclusive=False))


def _scaled_signs(weight: Float[Tensor, "O *rest"]) -> Float[Tensor, "O *rest"]:
    """Signs times the mean magnitude of each output unit, the least-squares fit; both take part in the gradient."""
    scale = weight.flatten(1).abs().mean(dim=1)
    return scale.reshape(-1, *[1] * (weight.ndim - 1)) * _sign(weight)


def _with_quantized_gradients(
    operation: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    for_weight: Callable[[Tensor], Tensor],
    for_input: Callable[[Tensor], Tensor],
) -> Tensor:
    """An operation whose two backward products each see the upstream gradient quantised in a way of its own."""
    to_weight = operation(x.detach(), weight, bias)
    to_input = operation(x, weight.detach(), None if bias is None else bias.detach())
    for branch, quantize in ((to_weight, for_weight), (to_input, for_input)):
        if branch.requires_grad:  # a frozen weight, or an input that is data, has no product
            branch.register_hook(quantize)
    # The value of one branch, the gradients of both.
    return to_input + (to_weight - to_weight.detach())


class BinaryLinear(nn.Linear):
    """A linear layer of signs of its input, and of signs of its weights times a scale for each output.

    Signs pass gradients where the magnitude is below 1. The scale is the mean magnitude of an output's weights, which
    fits them best in the sense of least squares. `weight` holds what is trained, in full precision.

    Args:
        in_features: of the input.
        out_features: of the output.
        bias: whether one is added, in full precision.
        grad_quant: quantises the upstream gradient, once for the weights' gradient and once for the input's, in groups
            of one row of the flattened batch: `AGP()`, or `functools.partial(quantize_groups, bits=4)`; default none,
            full precision.
        settings: device and dtype, as of `torch.nn.Linear`.

    Raises:
        UsageError: a `grad_quant` that cannot be called.

    Paper: 1-Bit FQT: Pushing the Limit of Fully Quantized Training to 1-bit, arXiv 2408.14267.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        grad_quant: GradientQuantizer | None = None,
        **settings: Any,
    ) -> None:
        _check_quantizer(grad_quant)
        super().__init__(in_features, out_features, bias, **settings)
        self.grad_quant = grad_quant

    def forward(self, input: Float[Tensor, "*batch I"]) -> Float[Tensor, "*batch O"]:
        """Outputs, of the shape that `torch.nn.Linear` gives."""
        x, weight = _sign(input), _scaled_signs(self.weight)
        if self.grad_quant is None or not torch.is_grad_enabled():
            return F.linear(x, weight, self.bias)

        def quantize(gradient: Tensor) -> Tensor:
            assert self.grad_quant is not None
            return self.grad_quant(gradient.flatten(0, -2), dim=0).reshape(gradient.shape)

        # A vector alone is a batch of one row.
        rows = x[None] if x.ndim == 1 else x
        out = _with_quantized_gradients(F.linear, rows, weight, self.bias, quantize, quantize)
        return out[0] if x.ndim == 1 else out


class BinaryConv2d(nn.Conv2d):
    """A convolution of signs of its input with signs of its weights times a scale for each output.

    As `BinaryLinear`, but the gradient's groups are the channels for the weights' gradient, and the samples for the
    input's, so that both remain products of whole numbers. Padding adds zeros, which have no sign.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: in pixels.
        grad_quant: see `BinaryLinear`.
        settings: `stride`, `padding` and all else that `torch.nn.Conv2d` takes, by keyword.

    Raises:
        UsageError: a `grad_quant` that cannot be called.

    Paper: 1-Bit FQT: Pushing the Limit of Fully Quantized Training to 1-bit, arXiv 2408.14267.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        *,
        grad_quant: GradientQuantizer | None = None,
        **settings: Any,
    ) -> None:
        _check_quantizer(grad_quant)
        super().__init__(in_channels, out_channels, kernel_size, **settings)
        self.grad_quant = grad_quant

    def forward(self, input: Float[Tensor, "B C H W"]) -> Float[Tensor, "B O h w"]:
        """Outputs, of the shape that `torch.nn.Conv2d` gives."""
        x, weight, quantize = _sign(input), _scaled_signs(self.weight), self.grad_quant
        if quantize is None or not torch.is_grad_enabled():
            return self._conv_forward(x, weight, self.bias)
        return _with_quantized_gradients(
            self._conv_forward, x, weight, self.bias, lambda g: quantize(g, dim=1), lambda g: quantize(g, dim=0)
        )


def _check_quantizer(grad_quant: GradientQuantizer | None) -> None:
    if grad_quant is not None and not callable(grad_quant):
        raise UsageError(f"grad_quant must be called with a gradient, such as AGP(), got {grad_quant!r}")
