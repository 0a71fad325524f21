"""What the guarded optimizers share: gathering gradients, reading them once, and what a NaN does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.optim import Optimizer

from binderclip.errors import NotSupported, UsageError
from binderclip.optim.clip.threshold import Reading
from binderclip.optim.gradients.collect import KeyedParameter, dense_grad, reads_are_free
from binderclip.optim.gradients.measure import combine_norms, local_shard
from binderclip.optim.gradients.nonfinite import NonFiniteGradient, explain_nonfinite
from binderclip.optim.gradients.statistics import measure

__all__ = [
    "GroupShare",
    "GuardedOptimizer",
    "all_finite",
    "may_look",
    "on_devices",
    "reading_of",
    "scaled",
    "settings_of",
]

NONFINITE = ("raise", "skip", "zero", "propagate")


@dataclass
class GroupShare:
    """What one param group brings to a step: its parameters that have a gradient, and this process's part of them.

    Args:
        group: the param group, with its settings.
        params: the parameters, plain or DTensor.
        keys: their names, else their positions.
        weights: this process's part of each parameter, to be changed in place.
        grads: this process's part of each gradient. Read only: it may be `p.grad` itself.
        stat: filled by `GuardedOptimizer.read`: one number per parameter, finite exactly if its gradient is.
        vectors: what `read` computed from the gradients, where it measures something else than them.
    """

    group: dict[str, Any]
    params: list[Tensor]
    keys: list[str]
    weights: list[Tensor]
    grads: list[Tensor]
    stat: Float[Tensor, "params"]
    vectors: list[Tensor] = field(default_factory=list)

    def parts(self, batched: bool, *columns: Any) -> Iterator[tuple[Any, ...]]:
        """This work with one value of each column per parameter: all at once for batched kernels, or one by one.

        Args:
            batched: all at once.
            columns: one value per parameter each.
        """
        if batched:
            yield (self, *columns)
            return
        for i, param in enumerate(self.params):
            cut = slice(i, i + 1)
            lists = {name: getattr(self, name)[cut] for name in ("keys", "weights", "grads", "stat", "vectors")}
            yield (replace(self, params=[param], **lists), *(column[cut] for column in columns))


class GuardedOptimizer(Optimizer):
    """Base of the optimizers here. A subclass gives `read` (measure) and `update` (change state and weights).

    Nothing of the state or the weights has changed when a gradient that is not finite is found, so that "raise" and
    "skip" leave everything as it was. `p.grad` is never written.

    Settings in `shared` are the same for all groups; `nonfinite` and `foreach` always are. State entries in `wide` keep
    their dtype when they are loaded.

    Args:
        params: parameters or param groups.
        defaults: the settings of a subclass, and the three that all of them have:
            maximize: ascend.
            nonfinite: as in `Clip`: "raise" and "skip" leave everything untouched, "zero" replaces the entries by 0.
            foreach: batched kernels; None means yes.

    Raises:
        UsageError: a value outside its range.
    """

    shared: tuple[str, ...] = ()
    wide: tuple[str, ...] = ()
    policies: tuple[str, ...] = NONFINITE
    skipped_steps: int = 0

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        check_common(defaults, self.policies)
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As torch's, and checks the group's settings.

        Raises:
            UsageError: a value outside its range, or a setting that cannot differ between groups.
        """
        for name in (*self.shared, "nonfinite", "foreach"):
            if param_group.get(name, self.defaults[name]) != self.defaults[name]:
                raise UsageError(f"{type(self).__name__}: {name} is the same for all param groups, set it once")
        settings = {**self.defaults, **param_group}
        check_common(settings, self.policies)
        self.check(settings)
        super().add_param_group(param_group)

    def common(self, name: str) -> Any:
        """A setting that all groups share."""
        return self.param_groups[0][name]

    # -- for subclasses --------------------------------------------------------------------------------------------

    def check(self, settings: dict[str, Any]) -> None:
        """Refuse a value outside its range, by UsageError."""

    def read(self, shares: Sequence[GroupShare]) -> None:
        """Fill `stat` of every share; nothing else may change."""
        raise TypeError(f"{type(self).__name__} gives no read()")

    def update(self, shares: Sequence[GroupShare]) -> None:
        """Take the step."""
        raise TypeError(f"{type(self).__name__} gives no update()")

    # -- the step --------------------------------------------------------------------------------------------------

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float | Tensor] | None = None) -> float | Tensor | None:
        """One step along the gradients that are there.

        Args:
            closure: computes the loss again, with gradients, and returns it.

        Returns:
            The closure's loss, or None.

        Raises:
            NonFiniteGradient: with `nonfinite="raise"`; nothing was changed.
            NotSupported: a sparse or complex gradient.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        shares = [share for share in map(self._share, self._numbered()) if share.params]
        if shares:
            zero = self.common("nonfinite") == "zero"
            looking = may_look([grad for share in shares for grad in share.grads])
            if zero and not looking:
                zero_nonfinite(shares)
            self.read(shares)
            if zero and looking and not bool(all_finite(shares)):
                zero_nonfinite(shares)
                self.read(shares)
            if zero or self._accept(shares):
                self.update(shares)
        return loss

    def _numbered(self) -> Iterator[tuple[int, dict[str, Any]]]:
        first = 0
        for group in self.param_groups:
            yield first, group
            first += len(group["params"])

    def _share(self, numbered: tuple[int, dict[str, Any]]) -> GroupShare:
        first, group = numbered
        names = group.get("param_names") or group.get("names") or ()
        params, keys, grads = [], [], []
        for place, param in enumerate(group["params"]):
            if param.grad is None:
                continue
            key = names[place] if place < len(names) else str(first + place)
            grad = dense_grad(KeyedParameter(key, param))
            if grad.is_complex():
                raise NotSupported(f"parameter {key!r} is complex, which {type(self).__name__} does not handle")
            params.append(param)
            keys.append(key)
            grads.append(local_shard(grad))
        if group.get("maximize") and grads:
            grads = list(torch._foreach_neg(grads))
        return GroupShare(group, params, keys, [local_shard(param) for param in params], grads, torch.zeros(0))

    def _accept(self, shares: Sequence[GroupShare]) -> bool:
        """Whether the step is taken; reads one flag back to the host, unless the policy looks away."""
        policy = self.common("nonfinite")
        if policy == "propagate" or bool(all_finite(shares)):
            return True
        self.skipped_steps += 1
        if policy == "raise":
            bad = [
                key
                for share in shares
                for key, fine in zip(share.keys, share.stat.isfinite().tolist(), strict=True)
                if not fine
            ]
            raise NonFiniteGradient(explain_nonfinite(bad))
        return False

    def norms(self, share: GroupShare, vectors: Sequence[Tensor], order: float = 2.0) -> Float[Tensor, "params"]:
        """The p-norm of one internal vector per parameter; shards are joined as the parameters are sharded.

        Args:
            share: whose parameters the vectors belong to.
            vectors: this process's part of each.
            order: p.
        """
        batched = self.common("foreach") is not False
        return measure(vectors, "tensor", order, foreach=batched, like=share.params).stat

    def states(
        self, share: GroupShare, start: Callable[[Tensor, dict[str, Any]], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The parameters' states, begun where there is none; every state counts its steps and its active bounds.

        Args:
            share: whose.
            start: from a parameter and its group to the rest of its first state.
        """
        result = []
        for param in share.params:
            state = self.state[param]
            if "step" not in state:
                # on the host, as torch's own: bias corrections then cost no synchronisation
                state["step"] = torch.zeros((), dtype=torch.float32)
                state["active"] = torch.zeros((), dtype=torch.float32, device=param.device)
                state.update(start(param, share.group))
            result.append(state)
        return result

    def count(self, states: Sequence[dict[str, Any]], active: Bool[Tensor, "params"]) -> None:
        """One more step, and whether the bound was active in it."""
        torch._foreach_add_([state["step"] for state in states], 1)
        hits = list(active.float().unbind())
        torch._foreach_add_([state["active"] for state in states], on_devices(hits, [s["active"] for s in states]))

    def active_fraction(self) -> float:
        """The share of steps at which the bound changed something, averaged over parameters; 0 before the first step.

        Reads back to the host. A fraction near 0 or 1 says that the bound is too wide to matter, or decides everything.
        """
        states = [state for state in self.state.values() if "step" in state]
        if not states:
            return 0.0
        return sum(float(state["active"]) / float(state["step"]) for state in states) / len(states)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a saved state exactly."""
        super().load_state_dict(state_dict)
        # torch casts what it loads to the parameter's dtype; the guards' memories may be wider than that
        places = [place for group in state_dict["param_groups"] for place in group["params"]]
        params = [param for group in self.param_groups for param in group["params"]]
        for place, param in zip(places, params, strict=True):
            saved = state_dict["state"].get(place, {})
            for key in ("active", *self.wide):
                if key in saved:
                    self.state[param][key] = saved[key].to(param.device, copy=True)


def reading_of(stat: Float[Tensor, "blocks"], finite: Tensor | None = None) -> Reading:
    """A threshold rule's view of internal vectors, whose memory the optimizer itself keeps in the order of the blocks.

    Args:
        stat: one number per block.
        finite: whether this step may enter a memory; default whether `stat` is finite.
    """

    def weights() -> Tensor:
        raise NotSupported("a rule that looks at the weights cannot be used inside an optimizer")

    places = torch.arange(len(stat), device=stat.device)
    usable = stat.isfinite().all() if finite is None else finite
    return Reading(stat, places, len(stat), combine_norms(stat, 2.0)[0], usable, weights)


def on_devices(values: Sequence[Tensor], others: Sequence[Tensor]) -> list[Tensor]:
    """Each value on the device of its tensor."""
    return [
        value if value.device == other.device else value.to(other.device, non_blocking=True)
        for value, other in zip(values, others, strict=True)
    ]


def scaled(grads: Sequence[Tensor], factors: Float[Tensor, "params"]) -> list[Tensor]:
    """Each gradient times its factor, in new tensors of the gradients' dtypes."""
    products = torch._foreach_mul(list(grads), on_devices(factors.unbind(), grads))
    # a wider factor widens a product of two 0-dim tensors only
    return [p if p.dtype == grad.dtype else p.to(grad.dtype) for p, grad in zip(products, grads, strict=True)]


def all_finite(shares: Sequence[GroupShare]) -> Bool[Tensor, ""]:
    """Whether every gradient is, as far as it was read."""
    device = shares[0].stat.device
    flags = [share.stat.isfinite().all() for share in shares]
    return flags[0] if len(flags) == 1 else torch.stack([flag.to(device) for flag in flags]).all()


def zero_nonfinite(shares: Sequence[GroupShare]) -> None:
    """Replace NaN and infinities by 0, in copies."""
    for share in shares:
        share.grads = [torch.nan_to_num(grad, 0.0, 0.0, 0.0) for grad in share.grads]


def settings_of(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among a constructor's `locals()`: everything but the object itself and its parameters."""
    return {name: value for name, value in arguments.items() if name not in ("self", "params", "__class__")}


def check_common(settings: dict[str, Any], policies: Sequence[str]) -> None:
    """Ranges of what all optimizers take."""
    if not settings["lr"] >= 0:
        raise UsageError(f"lr must be at least 0, got {settings['lr']}")
    if not settings["weight_decay"] >= 0:
        raise UsageError(f"weight_decay must be at least 0, got {settings['weight_decay']}")
    if settings["nonfinite"] not in policies:
        raise UsageError(f"nonfinite must be one of {', '.join(policies)}, got {settings['nonfinite']!r}")


def may_look(tensors: Sequence[Tensor]) -> bool:
    """Whether work may depend on values, because reading them costs nothing."""
    return reads_are_free(tensors) and not torch.compiler.is_compiling()
