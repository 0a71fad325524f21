"""LAMB: Adam whose step in each tensor is as long as the tensor is, for very large batches."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.optim.gradients.measure import local_shard
from binderclip.optim.optimizers.base import GroupShare, GuardedOptimizer, scaled, settings_of

__all__ = ["LAMB"]


class LAMB(GuardedOptimizer):
    """Adam with decoupled weight decay whose step is scaled by a trust ratio in each tensor.

    u = m / (sqrt(v) + eps) + weight_decay w, with moments corrected for their start at zero; w <- w - lr r u, with
    r = ||w|| / ||u|| kept within `trust`, and r = 1 where w or u is zero. `active_fraction()` says how often a bound of
    `trust` was met.

    The bounds are those of DeepSpeed's LAMB, with which EVA-CLIP's launch scripts train; `released=True` is that
    program to the letter: u is made of the moments as they are, and their correction, sqrt(1 - beta2^t) /
    (1 - beta1^t), is a factor of the step, weight decay's part included. The LAMB in EVA-CLIP's own repository is
    another one (no bounds, gradients clipped to a joint norm of 1, r = 1 without weight decay).

    Args:
        params: parameters or param groups.
        lr: step size.
        betas: decays of m and v.
        eps: added to the root.
        weight_decay: decoupled; part of u.
        trust: bounds of r; (1, 1) is AdamW.
        released: see above.
        maximize, nonfinite, foreach: see `GuardedOptimizer`.

    Raises:
        UsageError: a value outside its range.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> optimizer = LAMB([weight], lr=0.1)
        >>> weight.grad = torch.tensor([1.0, 0.0])
        >>> optimizer.step()                       # ||w|| = 5, u = (1, 0): a step of 0.1 * 5
        >>> [round(value, 3) for value in weight.tolist()]
        [2.5, 4.0]

    Paper: You et al., "Large Batch Optimization for Deep Learning: Training BERT in 76 minutes", arXiv 1904.00962; as
    EVA-CLIP (Sun et al., arXiv 2402.04252) uses it.
    """

    shared = ("released",)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        trust: Sequence[float] = (0.01, 10.0),
        released: bool = False,
        maximize: bool = False,
        nonfinite: Literal["raise", "skip", "zero", "propagate"] = "raise",
        foreach: bool | None = None,
    ) -> None:
        settings = settings_of(locals())
        self.check(settings)
        super().__init__(params, settings)

    def check(self, settings: dict[str, Any]) -> None:
        """Ranges of the decays, of eps and of the bounds."""
        if len(settings["betas"]) != 2 or not all(0 <= beta < 1 for beta in settings["betas"]):
            raise UsageError(f"betas must be two numbers in [0, 1), got {settings['betas']}")
        if not settings["eps"] >= 0:
            raise UsageError(f"eps must be at least 0, got {settings['eps']}")
        trust = settings["trust"]
        if len(trust) != 2 or not 0 < trust[0] <= trust[1]:
            raise UsageError(f"trust must be two numbers, 0 < least <= most, got {trust}")

    def read(self, shares: Sequence[GroupShare]) -> None:
        """The largest entry of each gradient, which says whether it is finite."""
        for share in shares:
            share.stat = self.norms(share, share.grads, math.inf)

    def update(self, shares: Sequence[GroupShare]) -> None:
        """Adam's step, its trust ratio, the weights."""
        batched = self.common("foreach") is not False
        for share in shares:
            states = self.states(share, self._start)
            for part, some in share.parts(batched, states):
                self._step(part, some)

    def _start(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"exp_avg": torch.zeros_like(param), "exp_avg_sq": torch.zeros_like(param)}

    def _step(self, share: GroupShare, states: Sequence[dict[str, Any]]) -> None:
        group, released = share.group, self.common("released")
        first, second = group["betas"]
        moments = [local_shard(state["exp_avg"]) for state in states]
        squares = [local_shard(state["exp_avg_sq"]) for state in states]
        torch._foreach_lerp_(moments, share.grads, 1 - first)
        torch._foreach_mul_(squares, second)
        torch._foreach_addcmul_(squares, share.grads, share.grads, 1 - second)
        steps = [float(state["step"]) + 1 for state in states]
        roots = [math.sqrt(1 - second**step) for step in steps]
        means = [1 - first**step for step in steps]
        # released: the step size carries sqrt(1 - beta2^t) / (1 - beta1^t) of both moments
        sizes = [root / mean for root, mean in zip(roots, means, strict=True)] if released else [1.0] * len(steps)
        updates = list(torch._foreach_sqrt(squares))
        if not released:
            torch._foreach_div_(updates, roots)
        torch._foreach_add_(updates, group["eps"])
        updates = list(torch._foreach_div(moments, updates))
        if not released:
            torch._foreach_div_(updates, means)
        if group["weight_decay"]:
            torch._foreach_add_(updates, share.weights, alpha=group["weight_decay"])
        lengths, strides = self.norms(share, share.weights), self.norms(share, updates)
        least, most = group["trust"]
        usual = (lengths > 0) & (strides > 0)
        ratio = torch.where(usual, lengths / torch.where(usual, strides, 1.0), 1.0)
        bounded = torch.where(usual, ratio.clamp(least, most), 1.0)
        self.count(states, bounded != ratio)
        rates = bounded * bounded.new_tensor([-float(group["lr"]) * size for size in sizes])
        torch._foreach_add_(share.weights, scaled(updates, rates))
