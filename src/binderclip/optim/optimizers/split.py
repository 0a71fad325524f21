"""Momentum on most coordinates, and a step of fixed length on those whose gradient is large."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.numeric import check_number
from binderclip.optim.gradients.measure import local_shard
from binderclip.optim.optimizers.base import GroupShare, GuardedOptimizer, settings_of

__all__ = ["SplitSGD"]


class SplitSGD(GuardedOptimizer):
    """SGD with momentum, whose coordinates of large gradient take a signed step of fixed length instead.

    In each tensor the coordinates whose |g| lies above its r-th quantile move by -sign_lr sign(g), the others by -lr m,
    with m <- momentum m + (1 - dampening) g. It is what a study of examples with opposing signals takes for the useful
    part of Adam: the few directions that they make sharp are not overshot. `active_fraction()` says how often a tensor
    had such coordinates.

    Args:
        params: parameters or param groups.
        lr: step size of the momentum.
        quantile: r, in [0, 1]. 1 leaves momentum SGD, 0 descent by the sign.
        sign_lr: length of the signed step. Default: lr times the tensor's quantile of |g|, the step that plain SGD
            would take at the border; at r = 0 that would be nought, so there it has to be given.
        momentum: in [0, 1).
        dampening: in [0, 1]. The first gradient starts m undamped, as in `torch.optim.SGD`.
        weight_decay: coupled, added to the gradient.
        maximize, nonfinite, foreach: see `GuardedOptimizer`; tensors are taken one by one, since each has a quantile.

    Raises:
        UsageError: a value outside its range, or r = 0 without `sign_lr`.
        NotSupported: a sharded parameter: its quantile would need every shard.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(4))
        >>> optimizer = SplitSGD([weight], lr=0.1, quantile=0.75)
        >>> weight.grad = torch.tensor([1.0, -1.0, 2.0, 100.0])
        >>> optimizer.step()
        >>> [round(value, 3) for value in weight.tolist()]
        [-0.1, 0.1, -0.2, -0.2]

    Paper: Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization, arXiv 2311.04163. It
    does not tell the constants to us: r = 0.9 and the default of `sign_lr` are ours.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        quantile: float = 0.9,
        *,
        sign_lr: float | None = None,
        momentum: float = 0.9,
        dampening: float = 0.9,
        weight_decay: float = 0.0,
        maximize: bool = False,
        nonfinite: Literal["raise", "skip", "zero", "propagate"] = "raise",
        foreach: bool | None = None,
    ) -> None:
        settings = settings_of(locals())
        self.check(settings)
        super().__init__(params, settings)

    def check(self, settings: dict[str, Any]) -> None:
        """Ranges of the settings."""
        check_number("quantile", settings["quantile"], least=0, most=1)
        check_number("momentum", settings["momentum"], least=0, below=1)
        check_number("dampening", settings["dampening"], least=0, most=1)
        if settings["sign_lr"] is not None:
            check_number("sign_lr", settings["sign_lr"], least=0)
        elif settings["quantile"] == 0:
            raise UsageError("quantile = 0 moves every coordinate by its sign: give sign_lr, the length of that step")

    def read(self, shares: Sequence[GroupShare]) -> None:
        """Gradients with the decay in them, and their lengths."""
        for share in shares:
            for key, param in zip(share.keys, share.params, strict=True):
                if local_shard(param) is not param:
                    raise NotSupported(f"parameter {key!r} is sharded: SplitSGD needs the quantile of all its entries")
            decay = share.group["weight_decay"]
            share.vectors = list(torch._foreach_add(share.grads, share.weights, alpha=decay) if decay else share.grads)
            share.stat = self.norms(share, share.vectors)

    def update(self, shares: Sequence[GroupShare]) -> None:
        """Signed steps above the quantile, momentum below."""
        for share in shares:
            states = self.states(share, lambda param, group: {})
            active = [
                self._move(weight, grad, state, share.group)
                for weight, grad, state in zip(share.weights, share.vectors, states, strict=True)
            ]
            self.count(states, torch.stack([flag.to(share.stat.device) for flag in active]))

    @staticmethod
    def _move(weight: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """One tensor's step; whether a coordinate of it was large."""
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = grad.clone()
        else:
            state["momentum_buffer"].mul_(group["momentum"]).add_(grad, alpha=1 - group["dampening"])
        size = grad.abs().float()  # kthvalue has no half precision everywhere
        # nearest rank: at r = 1 nothing lies above the largest, at r = 0 all but zeros lie above nought
        rank = math.ceil(group["quantile"] * size.numel())
        threshold = size.reshape(-1).kthvalue(rank).values if rank else size.new_zeros(())
        large = size > threshold
        sign_lr = group["lr"] * threshold if group["sign_lr"] is None else group["sign_lr"]
        step = torch.where(large, sign_lr * grad.sign(), group["lr"] * state["momentum_buffer"])
        weight.sub_(step.to(weight.dtype))
        return large.any()
