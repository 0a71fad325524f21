"""What happens to a block that exceeds its limit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.optim.gradients.statistics import StepStatistics

__all__ = ["act_", "clamp_", "coefficient", "rescale_", "scale_"]


def coefficient(
    stat: Float[Tensor, "*blocks"],
    limit: Float[Tensor, "*#blocks"],
    *,
    eps: float = 0.0,
    eps_mode: str = "add",
    only_above: bool = True,
    upwards: bool = False,
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
        upwards: also bring a smaller statistic up to its limit, unless it is 0 or the limit infinite; the factor may
            then exceed 1.
    """
    divisor = stat + eps if eps_mode == "add" else stat.clamp(min=eps)
    if upwards:
        return torch.where((stat == 0) | limit.isposinf(), torch.ones_like(stat), limit * divisor.reciprocal())
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


def rescale_(grads: Sequence[Tensor], limits: Sequence[Tensor], factors: Sequence[Tensor]) -> None:
    """Multiply by its tensor's factor every coordinate that exceeds the limit, in place; the others stay.

    Among those that exceed it the ratios survive, unlike in `clamp_`.
    """
    for grad, limit, factor in zip(grads, limits, factors, strict=True):
        bound, by = (value.to(grad.device, non_blocking=True) for value in (limit, factor))
        grad.mul_(torch.where(grad.abs() > bound, by, torch.ones_like(by)))


def act_(
    grads: Sequence[Tensor],
    statistics: StepStatistics,
    limit: Float[Tensor, "..."],
    factor: Float[Tensor, "blocks"],
    *,
    action: str,
    unit_dims: Sequence[int] = (),
    scale: Tensor | None = None,
    on_host: bool,
) -> None:
    """Change every tensor by the factor or the limit of its blocks; on a CPU only those that need it.

    Args:
        grads: this process's parts of the gradients.
        found: what was measured of them.
        limit: of each block, or one for all.
        factor: of each block.
        action: as in `Clip`.
        unit_dims: for each tensor, the dimension that counts its units; () where a tensor has one block.
        scale: what the gradients are still multiplied by.
        on_host: whether reading a value is free.
    """
    chosen = _changed(factor, statistics) if on_host else list(range(len(grads)))
    some = [grads[index] for index in chosen]
    factors = statistics.per_tensor(factor)
    if action in ("clamp", "rescale"):
        limit = limit.expand_as(factor)
        limits = statistics.per_tensor(limit if scale is None else limit * scale.to(limit.device))
        bounds = [limits[index].reshape(()) for index in chosen]
        if action == "clamp":
            clamp_(some, bounds)
        else:
            rescale_(some, bounds, [factors[index].reshape(()) for index in chosen])
        return
    scale_(some, [_along(factors[index], grads[index], unit_dims[index] if unit_dims else 0) for index in chosen])


def _changed(factor: Tensor, statistics: StepStatistics) -> list[int]:
    """Which tensors have a factor other than 1; one read of the host for all."""
    # NaN is not 1, so that a factor of NaN is multiplied in as torch does
    blocks = factor != 1
    if any(size != 1 for size in statistics.sizes):
        # units, of which an empty shard has none
        ends = torch.tensor(statistics.sizes, device=blocks.device).cumsum(0)
        total = torch.cat([blocks.new_zeros(1, dtype=torch.int64), blocks.cumsum(0)])[ends]
        blocks = total.diff(prepend=total.new_zeros(1)) > 0
    flags = blocks.tolist()
    return [index for index, owner in enumerate(statistics.owner) if flags[owner]]


def _along(values: Tensor, grad: Tensor, dim: int) -> Tensor:
    """One value per unit, shaped to multiply the gradient."""
    if values.numel() == 1:
        return values.reshape(())
    shape = [1] * grad.ndim
    shape[dim] = -1
    return values.reshape(shape)
