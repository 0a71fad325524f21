"""Momentum that follows the median of the gradients instead of their mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.optim.clip.actions import clamp_, coefficient, scale_
from binderclip.optim.gradients.measure import combine_norms, local_shard
from binderclip.optim.optimizers.base import GroupShare, GuardedOptimizer, settings_of
from binderclip.settings import check_choice

__all__ = ["MedianMomentum"]

ESTIMATORS = ("l2", "l1", "huber", "mean")


class MedianMomentum(GuardedOptimizer):
    """SGD along a running estimate m of the gradient's median, which a few huge gradients cannot drag away.

    Each step solves m <- argmin_x D(x - g) + ||x - m||^2 / (2 tau), which clips g - m: "l2" scales it to length tau
    (geometric median), "l1" clamps its entries (median of each coordinate), "huber" lies between "l2" and "mean", and
    "mean" is heavy-ball momentum with beta = 1 / (1 + tau). Then w <- w - lr m. m starts at the first gradient.
    `active_fraction()` says how often the bound mattered.

    Args:
        params: parameters or param groups.
        lr: step size.
        estimator: "l2", "l1", "huber" or "mean".
        tau: how far m may move, in units of the gradient, above 0 ("mean" and "huber": the weight tau / (1 + tau) of
            a new gradient, and "huber": m moves by at most tau mu). Too small, and m cannot leave its first value.
        mu: width of Huber's quadratic part, in units of the gradient, above 0.
        granularity: "tensor" measures g - m in each tensor, "global" in all of them together.
        weight_decay: coupled, added to the gradient.
        maximize, nonfinite, foreach: see `GuardedOptimizer`.

    Raises:
        UsageError: a value outside its range.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> optimizer = MedianMomentum([weight], lr=1.0, tau=0.1)
        >>> for gradient in ([1.0, 0.0], [1e6, 0.0]):
        ...     weight.grad = torch.tensor(gradient)
        ...     optimizer.step()
        >>> [round(value, 3) for value in weight.tolist()]
        [-2.1, 0.0]

    Paper: SGD with Clipping is Secretly Estimating the Median Gradient, arXiv 2402.12828.
    """

    shared = ("estimator", "granularity")

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        estimator: Literal["l2", "l1", "huber", "mean"] = "l2",
        *,
        tau: float = 1.0,
        mu: float = 0.5,
        granularity: Literal["tensor", "global"] = "tensor",
        weight_decay: float = 0.0,
        maximize: bool = False,
        nonfinite: Literal["raise", "skip", "zero", "propagate"] = "raise",
        foreach: bool | None = None,
    ) -> None:
        settings = settings_of(locals())
        check_choice("estimator", estimator, ESTIMATORS)
        check_choice("granularity", granularity, ("tensor", "global"))
        self.check(settings)
        super().__init__(params, settings)

    def check(self, settings: dict[str, Any]) -> None:
        """Ranges of tau and mu."""
        for name in ("tau", "mu"):
            if not settings[name] > 0:
                raise UsageError(f"{name} must be above 0, got {settings[name]}")

    def read(self, shares: Sequence[GroupShare]) -> None:
        """Distance of each gradient from its running estimate; of a first gradient, its own size."""
        estimator = self.common("estimator")
        for share in shares:
            grads = share.grads
            if share.group["weight_decay"]:
                grads = list(torch._foreach_add(grads, share.weights, alpha=share.group["weight_decay"]))
            known = [self.state.get(param, {}).get("centre") for param in share.params]
            share.vectors = [
                grad if centre is None else grad - local_shard(centre)
                for grad, centre in zip(grads, known, strict=True)
            ]
            if estimator == "mean" and self.common("nonfinite") == "propagate":
                share.stat = torch.zeros(len(grads), device=grads[0].device)
            else:
                share.stat = self.norms(share, share.vectors, math.inf if estimator == "l1" else 2.0)

    def update(self, shares: Sequence[GroupShare]) -> None:
        """Move the estimates by the clipped distances, then the weights."""
        fresh = [["step" not in self.state.get(param, {}) for param in share.params] for share in shares]
        together = self.common("granularity") == "global" and self.common("estimator") in ("l2", "huber")
        device = shares[0].stat.device
        # a first gradient is taken over whole and must not widen the others' distance
        distances = [_without(share.stat, new) for share, new in zip(shares, fresh, strict=True)]
        if together:
            whole = combine_norms(torch.cat([distance.to(device) for distance in distances]), 2.0)
            distances = [whole.to(share.stat.device).expand_as(share.stat) for share in shares]
        batched = self.common("foreach") is not False
        for share, new, distance in zip(shares, fresh, distances, strict=True):
            states = self.states(share, self._start)
            factors, active = self._rule(distance, share.group)
            self.count(states, active)
            for part, *columns in share.parts(batched, states, new, factors):
                self._move(part, *columns)

    def _start(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        return {"centre": torch.zeros_like(param)}

    def _rule(
        self, distance: Float[Tensor, "params"], group: dict[str, Any]
    ) -> tuple[Float[Tensor, "params"], Bool[Tensor, "params"]]:
        """What each distance is multiplied by (for "l1" 1, it is clamped), and where the bound is active."""
        estimator, tau, mu = self.common("estimator"), group["tau"], group["mu"]
        weight = 1 / (1 + 1 / tau)
        # Huber's step tau mu / max(||v||, mu (1 + tau)) is the mean's step of a v clipped to mu (1 + tau)
        bound = {"l2": tau, "l1": tau, "huber": mu * (1 + tau), "mean": math.inf}[estimator]
        factors = coefficient(distance, distance.new_full((), bound))
        active = factors < 1
        if estimator == "l1":
            factors = torch.ones_like(factors)
        return (factors * weight if estimator in ("huber", "mean") else factors), active

    def _move(self, share: GroupShare, states: Sequence[dict[str, Any]], fresh: list[bool], factors: Tensor) -> None:
        centres = [local_shard(state["centre"]) for state in states]
        # the distances of first gradients may be the gradients themselves: these are not written
        later = [i for i, first in enumerate(fresh) if not first]
        changed = [share.vectors[i] for i in later]
        if self.common("estimator") == "l1":
            clamp_(changed, [factors.new_full((), share.group["tau"])] * len(changed))
        elif changed:
            scale_(changed, [factors[i] for i in later])
        torch._foreach_add_(centres, share.vectors)
        torch._foreach_add_(share.weights, centres, alpha=-float(share.group["lr"]))


def _without(distances: Float[Tensor, "params"], fresh: list[bool]) -> Float[Tensor, "params"]:
    """0 for the parameters that are seen for the first time."""
    return torch.where(torch.tensor(fresh, device=distances.device), 0.0, distances) if any(fresh) else distances
