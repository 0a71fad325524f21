"""Layers laid over each other, in linear time and with an exact gradient also through opaque ones."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["composite_over"]


def composite_over(
    alpha: Float[Tensor, "n P"], colour: Float[Tensor, "n 3 #P"], background: Float[Tensor, "3 #P"]
) -> Float[Tensor, "3 P"]:
    """Lay n layers over a background, the first lowest: `C <- a c + (1 - a) C`.

    Args:
        alpha: opacity of each layer at each of P pixels, in [0, 1].
        colour: of each layer, straight, one or one for each pixel.
        background: one colour or a picture; no gradient flows into it.

    Examples:
        >>> alpha = torch.tensor([[1.0], [0.5]])
        >>> colour = torch.tensor([[[1.0], [0.0], [0.0]], [[0.0], [0.0], [1.0]]])
        >>> composite_over(alpha, colour, torch.ones(3, 1)).flatten().tolist()
        [0.5, 0.0, 0.5]
    """
    return _Over.apply(alpha, colour, background.expand(3, alpha.shape[1]))


class _Over(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, alpha: Tensor, colour: Tensor, background: Tensor) -> Tensor:
        ctx.save_for_backward(alpha, colour, background)
        picture = background.clone()
        for a, c in zip(alpha, colour, strict=True):
            picture.lerp_(c.expand_as(picture), a)
        return picture

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (alpha, colour, background), (gradient,) = ctx.saved_tensors, gradients
        # What is seen of a layer through those above it: the product of (1 - a) over them.
        clear = torch.cat([1 - alpha[1:], torch.ones_like(alpha[:1])]).flip(0).cumprod(0).flip(0)  # [n, P]
        # d C / d a_i = clear_i (c_i - C below i), all along the gradient: no division by 1 - a_i, which may be 0
        toward = (colour * gradient).sum(1) if colour.shape[2] > 1 else colour[..., 0] @ gradient  # [n, P]
        below = (background * gradient).sum(0)
        grad_alpha = torch.empty_like(alpha)
        for a, value, row in zip(alpha, toward, grad_alpha, strict=True):
            torch.sub(value, below, out=row)
            below = below.addcmul(a, row)
        grad_alpha *= clear
        visible = alpha * clear
        if colour.shape[2] > 1:
            return grad_alpha, visible[:, None] * gradient, None
        return grad_alpha, (visible @ gradient.T)[..., None], None
