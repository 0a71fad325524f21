"""Gradients other than those of the value: through a rounded code, and past the ends of a range."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["clamp_with_grad", "replace_grad"]


def replace_grad(value: Float[Tensor, "*#size"], source: Float[Tensor, "*#size"]) -> Float[Tensor, "*size"]:
    """The first tensor's value with the second one's gradient: the straight-through estimator.

    Args:
        value: what comes out; no gradient flows into it.
        source: takes the gradient, summed over the axes along which it was broadcast.

    Examples:
        >>> x = torch.tensor([0.2, 0.7], requires_grad=True)
        >>> rounded = replace_grad(x.round(), x)
        >>> (rounded * torch.tensor([3.0, 5.0])).sum().backward()
        >>> rounded.tolist(), x.grad.tolist()
        ([0.0, 1.0], [3.0, 5.0])
    """
    return _ReplacedGradient.apply(value, source)


def clamp_with_grad(x: Float[Tensor, "*size"], low: float, high: float) -> Float[Tensor, "*size"]:
    """Clamp to [low, high]; outside it the gradient passes where a step of descent along it leads back inside.

    A plain clamp gives no gradient there, so a value that once left the range would stay where it is.

    Args:
        x: any values.
        low, high: ends of the range.

    Raises:
        UsageError: low is not below high.

    Examples:
        >>> x = torch.tensor([-1.0, 0.5, 2.0], requires_grad=True)
        >>> clamp_with_grad(x, 0.0, 1.0).sum().backward()  # descent lowers all three: -1 would go further away
        >>> x.grad.tolist()
        [0.0, 1.0, 1.0]
    """
    if not low < high:
        raise UsageError(f"low = {low} must be below high = {high}")
    return _ReturningClamp.apply(x, low, high)


class _ReplacedGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, source: Tensor) -> Tensor:
        ctx.shape = source.shape
        return value.expand(torch.broadcast_shapes(value.shape, source.shape)).clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return None, gradients[0].sum_to_size(ctx.shape)


class _ReturningClamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.ends = low, high
        return x.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (x,), (gradient,) = ctx.saved_tensors, gradients
        # above the range x - clamp(x) > 0 and descent lowers x where its gradient is positive; below it the reverse
        return gradient * (gradient * (x - x.clamp(*ctx.ends)) >= 0), None, None
