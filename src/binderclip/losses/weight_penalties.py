"""The l1 norm of weights as a penalty, in the three ways that optimizers can be given it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = ["l1_penalty"]


def l1_penalty(
    params: Iterable[Tensor],
    strength: float,
    *,
    method: Literal["subgradient", "proximal", "huber"] = "subgradient",
    delta: float = 1e-3,
) -> Float[Tensor, ""]:
    """strength * sum |w|, to be added to a loss.

    Args:
        params: the weights.
        strength: at least 0.
        method: `subgradient`, differentiated as autograd does, by sign(w) and 0 at 0: gradient descent then oscillates
            around 0 and leaves no zeros. `proximal`, the value without a gradient, for `ProximalSGD(l1=strength)` of
            `optim`, which applies the penalty itself and leaves zeros. `huber`, w^2 / (2 delta) where |w| < delta and
            |w| - delta / 2 beyond: smooth, small weights instead of zeros.
        delta: of `huber`; a learning rate below 2 delta / strength converges.

    Raises:
        UsageError: no weights, a negative strength, a delta of 0 or less, or an unknown method.

    Paper: GD doesn't make the cut: Three ways that non-differentiability affects neural network training (arXiv
    2401.08426).
    """
    check_number("strength", strength, least=0)
    check_number("delta", delta, above=0)
    check_choice("method", method, ("subgradient", "proximal", "huber"))
    tensors = list(params)
    if not tensors:
        raise UsageError("l1_penalty needs at least one tensor")
    if method == "huber":
        sizes = [torch.where(w.abs() < delta, w * w / (2 * delta), w.abs() - delta / 2).sum() for w in tensors]
    else:
        sizes = [(w.detach() if method == "proximal" else w).abs().sum() for w in tensors]
    return strength * torch.stack([size.to(sizes[0]) for size in sizes]).sum()
