"""Clamping of a learned number, with a gradient that leads back from beyond the bound."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["at_most", "between"]


class _Ceiling(torch.autograd.Function):
    """min(x, top) whose gradient still lets x come down once it has passed the top."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.top = top
        return x.clamp(max=top)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.where(x > ctx.top, grad.clamp(min=0.0), grad), None


def at_most(x: Float[Tensor, "*n"], high: float) -> Float[Tensor, "*n"]:
    """`x` clamped to `high`, with the gradient that leads back kept beyond it."""
    return _Ceiling.apply(x, high)


def between(x: Float[Tensor, "*n"], low: float, high: float) -> Float[Tensor, "*n"]:
    """`x` clamped to [low, high], with the gradient that leads back kept beyond both ends."""
    if high < math.inf:
        x = at_most(x, high)
    return -at_most(-x, -low) if low > -math.inf else x
