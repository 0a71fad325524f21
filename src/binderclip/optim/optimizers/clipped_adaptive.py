"""AdaGrad and Adam whose step and accumulator both see the clipped gradient, the accumulator one step late."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.optim.clip.actions import clamp_, coefficient
from binderclip.optim.gradients.measure import accumulation_dtype, combine_norms, local_shard
from binderclip.optim.optimizers.base import GroupShare, GuardedOptimizer, may_look, on_devices, scaled, settings_of

__all__ = ["ClippedAdaGrad", "ClippedAdam"]

FORMS = ("coordinate", "norm")
GRANULARITIES = ("tensor", "group", "global", "coordinate")
ClippedBlock = Literal["tensor", "group", "global", "coordinate", "local", "elementwise"]
PAPER_WORDS = {"local": "tensor", "elementwise": "coordinate"}


class _ClippedAdaptive(GuardedOptimizer):
    """What both share: clip c = clip(g), accumulate squares of c, divide by their root."""

    shared = ("form", "granularity", "delayed")
    wide = ("norm_sum", "previous_norm")
    delays: tuple[str | bool, ...] = ()
    momentum = False

    def __init__(self, params: Any, settings: dict[str, Any]) -> None:
        if settings["delayed"] is True:
            settings["delayed"] = "accumulator"
        if settings["granularity"] is None:
            settings["granularity"] = "tensor" if settings["form"] == "coordinate" else "global"
        settings["granularity"] = PAPER_WORDS.get(settings["granularity"], settings["granularity"])
        for name, known in (("form", FORMS), ("granularity", GRANULARITIES), ("delayed", self.delays)):
            if settings[name] not in known:
                raise UsageError(f"{name} must be one of {', '.join(map(str, known))}, got {settings[name]!r}")
        if settings["form"] == "norm" and settings["granularity"] == "coordinate":
            raise UsageError("form 'norm' measures blocks: granularity is one of tensor, group, global")
        self.check(settings)
        super().__init__(params, settings)

    def check(self, settings: dict[str, Any]) -> None:
        """Ranges of clip, eta, eps and v0."""
        for name in ("clip", "eta", "eps", "v0"):
            if not settings[name] >= 0:
                raise UsageError(f"{name} must be at least 0, got {settings[name]}")
        if settings["delayed"] and not settings["v0"] > 0:
            raise UsageError("a delayed accumulator divides by v0 at the first step: v0 must be above 0")

    # -- measuring and clipping ------------------------------------------------------------------------------------

    def read(self, shares: Sequence[GroupShare]) -> None:
        """Norm of each gradient; its largest entry for granularity "coordinate"."""
        order = math.inf if self.common("granularity") == "coordinate" else 2.0
        for share in shares:
            share.stat = self.norms(share, share.grads, order)

    def _factors(self, shares: Sequence[GroupShare]) -> list[Tensor]:
        """Per group, the factor of each parameter's clipping."""
        granularity, exact = self.common("granularity"), self.common("form") == "norm"
        device = shares[0].stat.device
        whole = combine_norms(torch.cat([share.stat.to(device) for share in shares]), 2.0)
        result = []
        for share in shares:
            if granularity == "global":
                block = whole.to(share.stat.device)
            else:
                block = combine_norms(share.stat, 2.0) if granularity == "group" else share.stat
            limit = block.new_full((), share.group["clip"])
            # the coordinate form clips as PyTorch's functions do, the theory's form exactly
            eps = 0.0 if exact or granularity == "coordinate" else 1e-6
            result.append(coefficient(block, limit, eps=eps, only_above=not eps).expand_as(share.stat))
        return result

    def _clipped(self, share: GroupShare, factors: Tensor) -> list[Tensor]:
        """The clipped gradients: the gradients themselves where nothing had to be done and the host may know that."""
        if may_look(share.grads) and bool((factors >= 1).all()):
            return share.grads
        if self.common("granularity") == "coordinate":
            result = [grad.clone() for grad in share.grads]
            bound = factors.new_full((), share.group["clip"])
            clamp_(result, [bound] * len(result))
            return result
        return scaled(share.grads, factors)

    # -- the step --------------------------------------------------------------------------------------------------

    def update(self, shares: Sequence[GroupShare]) -> None:
        """Clip, accumulate, move."""
        factors = self._factors(shares)
        states = [self.states(share, self._start) for share in shares]
        for known, factor in zip(states, factors, strict=True):
            self.count(known, factor < 1)
        roots = self._norm_roots(shares, factors) if self.common("form") == "norm" else [None] * len(shares)
        batched = self.common("foreach") is not False
        for share, known, factor, root in zip(shares, states, factors, roots, strict=True):
            columns = (known, factor, root if root is not None else [None] * len(known))
            for part, some, scale, divisors in share.parts(batched, *columns):
                self._move(part, some, self._clipped(part, scale), None if root is None else divisors)

    def _start(self, param: Tensor, group: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = {}
        if group["form"] == "coordinate":
            state["sum"] = torch.full_like(param, group["v0"])
            if self.momentum and group["delayed"]:
                state["previous"] = torch.zeros_like(param)
        if group["delayed"] == "gradient":
            state["previous"] = torch.zeros_like(param)
        if self.momentum:
            state["exp_avg"] = torch.zeros_like(param)
        return state

    def _norm_roots(self, shares: Sequence[GroupShare], factors: Sequence[Tensor]) -> list[list[Tensor]]:
        """Norm form: one divisor per block, handed out to the block's parameters.

        A block of many parameters keeps its accumulator in the state of the first parameter of the group (or of all).
        """
        granularity = self.common("granularity")
        norms = [share.stat * factor for share, factor in zip(shares, factors, strict=True)]
        if granularity == "tensor":
            return [
                [self._norm_root(p, norm, share.group) for p, norm in zip(share.params, each.unbind(), strict=True)]
                for share, each in zip(shares, norms, strict=True)
            ]
        if granularity == "group":
            roots = [
                self._norm_root(share.group["params"][0], combine_norms(each, 2.0)[0], share.group)
                for share, each in zip(shares, norms, strict=True)
            ]
        else:
            first = self.param_groups[0]
            whole = combine_norms(torch.cat([each.to(norms[0].device) for each in norms]), 2.0)[0]
            roots = [self._norm_root(first["params"][0], whole, first)] * len(shares)
        return [[root] * len(share.params) for share, root in zip(shares, roots, strict=True)]

    def _norm_root(self, owner: Tensor, norm: Tensor, group: dict[str, Any]) -> Tensor:
        state = self.state[owner]
        if "norm_sum" not in state:
            dtype = accumulation_dtype(owner.dtype)
            state["norm_sum"] = torch.full((), group["v0"], dtype=dtype, device=owner.device)
            state["previous_norm"] = torch.zeros((), dtype=dtype, device=owner.device)
        values = norm.to(state["norm_sum"])
        return self._advance([state["norm_sum"]], [state["previous_norm"]], [values], group)[0]

    def _advance(
        self, sums: list[Tensor], previous: list[Tensor], values: list[Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        """Move the accumulators on, and return the divisors of this step.

        Args:
            sums: accumulated squares, changed in place.
            previous: what `values` was at the last step, changed in place.
            values: clipped gradients, or norms of blocks of them.
            group: settings.
        """
        raise TypeError

    def _direction(
        self, states: Sequence[dict[str, Any]], clipped: list[Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        """What is divided by the root."""
        raise TypeError

    def _rates(self, states: Sequence[dict[str, Any]], group: dict[str, Any]) -> list[float]:
        return [float(group["lr"])] * len(states)

    def _move(
        self, share: GroupShare, states: Sequence[dict[str, Any]], clipped: list[Tensor], roots: list[Tensor] | None
    ) -> None:
        """Weights of one group, or of one parameter in loop mode."""
        group = share.group
        previous = [local_shard(state["previous"]) for state in states if "previous" in state]
        if roots is None:
            sums = [local_shard(state["sum"]) for state in states]
            roots = self._advance(sums, previous, clipped, group)
        else:
            roots = on_devices(roots, share.weights)
        rates = self._rates(states, group)
        torch._foreach_addcdiv_(share.weights, self._direction(states, clipped, group), roots, [-r for r in rates])
        if group["delayed"] == "gradient":
            torch._foreach_copy_(previous, clipped)
        if group["weight_decay"]:
            torch._foreach_mul_(share.weights, 1 - float(group["lr"]) * group["weight_decay"])


class ClippedAdaGrad(_ClippedAdaptive):
    """AdaGrad with the gradient clipped before both of its uses, and an accumulator that runs one step behind.

    Under heavy-tailed noise a single huge gradient freezes plain AdaGrad; clipped, it costs one bounded step. In the
    norm form, with c = clip(g): w <- w - lr / b * c, then b^2 <- b^2 + eta ||c||^2 (Clip-RAdaGradD); in the coordinate
    form b is a vector.

    Args:
        params: parameters or param groups.
        lr: step size.
        clip: the largest norm of a block (entry for "coordinate"), at least 0; inf for none.
        form: "coordinate" (an accumulator per entry, the practice) or "norm" (one per block, the theory).
        granularity: the block that is clipped: "tensor" (also called "local"), "group" (a param group), "global" (all
            gradients) or "coordinate" ("elementwise"). Default "tensor" in the coordinate form, "global" in the norm
            form.
        delayed: "accumulator" (or True): the divisor does not contain the present gradient. False: it does.
            "gradient", the authors' program: it moves along the previous clipped gradient, which the divisor contains,
            so the first step does not move.
        eta: weight of new squares in the accumulator.
        v0: where the accumulator starts, b_0 squared in the norm form. A delayed accumulator divides the first step by
            its root alone: default 1, so that step is lr times the clipped gradient; 1e-4 would make it 100 times as
            long. "gradient" starts at the authors' 1e-4, no delay at 0.
        eps: added to the root.
        weight_decay: decoupled, applied after the step.
        maximize, nonfinite, foreach: see `GuardedOptimizer`.

    Raises:
        UsageError: a value outside its range.

    Examples:
        >>> weight = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = ClippedAdaGrad([weight], lr=1.0, clip=0.5, form="norm", v0=9.0)
        >>> weight.grad = weight.detach().clone()
        >>> optimizer.step()
        >>> round(weight.item(), 4)
        1.8333

    Paper: Gradient Clipping Improves AdaGrad when the Noise Is Heavy-Tailed, arXiv 2406.04443.
    """

    delays = ("accumulator", "gradient", False)

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        *,
        clip: float = 1.0,
        form: Literal["coordinate", "norm"] = "coordinate",
        granularity: ClippedBlock | None = None,
        delayed: Literal["accumulator", "gradient"] | bool = "accumulator",
        eta: float = 1.0,
        v0: float | None = None,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
        maximize: bool = False,
        nonfinite: Literal["raise", "skip", "zero", "propagate"] = "raise",
        foreach: bool | None = None,
    ) -> None:
        settings = settings_of(locals())
        if v0 is None:
            # 1e-4 is the authors', in whose program the divisor already holds the gradient that it divides
            settings["v0"] = {"gradient": 1e-4, False: 0.0}.get(delayed, 1.0)
        super().__init__(params, settings)

    def _advance(
        self, sums: list[Tensor], previous: list[Tensor], values: list[Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        if not group["delayed"]:
            torch._foreach_addcmul_(sums, values, values, group["eta"])
        roots = torch._foreach_sqrt(sums)
        torch._foreach_add_(roots, group["eps"])
        if group["delayed"]:
            torch._foreach_addcmul_(sums, values, values, group["eta"])
        return list(roots)

    def _direction(
        self, states: Sequence[dict[str, Any]], clipped: list[Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        if group["delayed"] == "gradient":
            return [local_shard(state["previous"]) for state in states]
        return clipped


class ClippedAdam(_ClippedAdaptive):
    """Adam with the gradient clipped before both moments, and a second moment that runs one step behind.

    With c = clip(g): m <- b1 m + (1 - b1) c and v <- b2 v + (1 - b2) eta c'^2, where c' is the previous clipped
    gradient if delayed, so that step size and gradient are independent; the step is lr m / (sqrt(v) + eps).

    Args:
        params: parameters or param groups.
        lr: step size.
        betas: decay of the first and the second moment, each in [0, 1).
        clip, form, granularity, weight_decay: see `ClippedAdaGrad`. In the norm form the second moment is that of the
            block's norm (Adam-Norm).
        maximize, nonfinite, foreach: see `GuardedOptimizer`.
        delayed: "accumulator" (or True), or False.
        eta: weight of new squares.
        v0: where the second moment starts; default 1e-5 if delayed, as the authors', so that the first step is about
            (1 - beta_1) / sqrt(1e-5) = 32 times lr times the clipped gradient; else 0.
        eps: added to the uncorrected root, as in BERT's Adam.
        bias_correction: divide by 1 - beta^t; default only if not delayed, where v does not start at 0.

    Raises:
        UsageError: a value outside its range.

    Paper: Gradient Clipping Improves AdaGrad when the Noise Is Heavy-Tailed, arXiv 2406.04443.
    """

    delays = ("accumulator", False)
    momentum = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        *,
        clip: float = 1.0,
        form: Literal["coordinate", "norm"] = "coordinate",
        granularity: ClippedBlock | None = None,
        delayed: Literal["accumulator"] | bool = "accumulator",
        eta: float = 1.0,
        v0: float | None = None,
        eps: float = 1e-6,
        bias_correction: bool | None = None,
        weight_decay: float = 0.0,
        maximize: bool = False,
        nonfinite: Literal["raise", "skip", "zero", "propagate"] = "raise",
        foreach: bool | None = None,
    ) -> None:
        settings = settings_of(locals())
        settings["v0"] = (1e-5 if delayed else 0.0) if v0 is None else v0
        settings["bias_correction"] = not delayed if bias_correction is None else bias_correction
        super().__init__(params, settings)

    def check(self, settings: dict[str, Any]) -> None:
        """Ranges, betas included."""
        super().check(settings)
        if len(settings["betas"]) != 2 or not all(0 <= beta < 1 for beta in settings["betas"]):
            raise UsageError(f"betas must be two numbers in [0, 1), got {settings['betas']}")

    def _advance(
        self, sums: list[Tensor], previous: list[Tensor], values: list[Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        beta = group["betas"][1]
        seen = previous if group["delayed"] else values
        torch._foreach_mul_(sums, beta)
        torch._foreach_addcmul_(sums, seen, seen, (1 - beta) * group["eta"])
        if group["delayed"]:
            torch._foreach_copy_(previous, values)
        roots = torch._foreach_sqrt(sums)
        torch._foreach_add_(roots, group["eps"])
        return list(roots)

    def _direction(
        self, states: Sequence[dict[str, Any]], clipped: list[Tensor], group: dict[str, Any]
    ) -> list[Tensor]:
        moments = [local_shard(state["exp_avg"]) for state in states]
        torch._foreach_lerp_(moments, clipped, 1 - group["betas"][0])
        return moments

    def _rates(self, states: Sequence[dict[str, Any]], group: dict[str, Any]) -> list[float]:
        lr = float(group["lr"])
        if not group["bias_correction"]:
            return [lr] * len(states)
        first, second = group["betas"]
        steps = [float(state["step"]) for state in states]
        return [lr * math.sqrt(1 - second**step) / (1 - first**step) for step in steps]
