"""What happens to a block that exceeds its limit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["clamp_", "coefficient", "scale_"]


def coefficient(
    stat: Float[Tensor, "*blocks"],
    limit: Float[Tensor, "*blocks"],
    *,
    eps: float = 0.0,
    eps_mode: str = "add",
    only_above: bool = True,
) -> Float[Tensor, "*blocks"]:
    """The factor, at most 1, that brings each statistic down to its limit.

    Published methods differ in their epsilon, and reference values only match with the right one:
    PyTorch, AutoClip and Opacus use limit / (stat + 1e-6) whether or not the limit is exceeded, ZClip the same only
    when it is, AGC limit / max(stat, 1e-6), AdaGC none.

    Args:
        stat: what was measured.
        limit: what is allowed, broadcast against `stat`.
        eps: added to the statistic, or its lower bound.
        eps_mode: "add" or "max".
        only_above: 1 wherever the statistic does not exceed its limit.
    """
    divisor = stat + eps if eps_mode == "add" else stat.clamp(min=eps)
    # by the reciprocal, as a number divided by a tensor is computed: torch's clip_grad_norm_ to the last bit
    factor = (limit * divisor.reciprocal()).clamp(max=1.0)
    return torch.where(stat > limit, factor, torch.ones_like(factor)) if only_above else factor


def scale_(grads: Sequence[Tensor], factors: Tensor | Sequence[Tensor]) -> None:
    """Multiply gradients in place, all by one factor (0-dim) or each by its own (0-dim, or broadcastable to it)."""
    if isinstance(factors, Tensor):
        by_device: dict[torch.device, list[Tensor]] = {}
        for grad in grads:
            by_device.setdefault(grad.device, []).append(grad)
        for device, some in by_device.items():
            torch._foreach_mul_(some, factors.to(device, non_blocking=True))
        return
    for grad, factor in zip(grads, factors, strict=True):
        grad.mul_(factor.to(grad.device, non_blocking=True))


def clamp_(grads: Sequence[Tensor], limits: Sequence[Tensor]) -> None:
    """Clamp every coordinate of each gradient to [-limit, limit], in place."""
    for grad, limit in zip(grads, limits, strict=True):
        bound = limit.to(grad.device, non_blocking=True)
        grad.clamp_(-bound, bound)
