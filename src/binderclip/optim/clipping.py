"""`Clip`: granularity x statistic x threshold x action."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.optim import gradients
from binderclip.optim.actions import act_, coefficient, scale_
from binderclip.optim.gradients import (
    Entry,
    NonFiniteGradient,
    Parameters,
    dense_grad,
    entries_of,
    explain_nonfinite,
    zero_nonfinite_,
)
from binderclip.optim.measure import local_shard
from binderclip.optim.reader import Measured, Slots, measure
from binderclip.optim.report import ClipReport, empty_report
from binderclip.optim.threshold import Reading, Threshold, as_threshold

if TYPE_CHECKING:
    from binderclip.optim.attach import Attachment, StepTarget

__all__ = ["Clip"]

GRANULARITIES = ("global", "group", "tensor", "unit", "coordinate")
STATISTICS = {"l2": 2.0, "l1": 1.0, "max": math.inf}
ACTIONS = ("scale", "renormalise", "clamp", "rescale")
NONFINITE = ("raise", "skip", "zero", "propagate")


class Clip:
    """Limit the gradient: split it into blocks, measure each, compare with a threshold, shrink what exceeds it.

    `clip(params)` works in place after backward. `clip.attach(optimizer)` does it before every step by itself. The
    published methods (`NormClip`, `ValueClip`, ...) are constructors that fix these choices; combine them freely for
    one that nobody has published.

    Where nothing exceeds its limit on a CPU, the gradients are read once and not written. On an accelerator nothing
    is read back to the host, except for `nonfinite="raise"` and "skip" outside a fused optimizer, where one flag is.

    Args:
        threshold: the rule, or a number for a constant one.
        granularity: what one statistic covers: "global", "group" (a param group of the attached optimizer, or what
            `groups` says), "tensor", "unit" (a slice along the first dimension: an output row or filter; a vector is
            one unit) or "coordinate".
        statistic: "l2", "l1", "max", or the order p > 0 of any other norm. "coordinate" goes with "max".
        action: "scale" multiplies the block, "renormalise" does so also where it is smaller than the limit; with
            statistic "max", "clamp" cuts each coordinate at the limit and "rescale" multiplies those that exceed it.
        eps, eps_mode, only_above: see `optim.coefficient`.
        nonfinite: what a NaN or an infinity does. "raise" leaves the gradients unused (`grad = None`) and raises
            `NonFiniteGradient`; "skip" does the same without raising, so that the optimizer's step changes nothing;
            "zero" replaces the offending entries by 0 and goes on; "propagate" looks away. It never enters a
            threshold's memory. A GradScaler's overflows are always skipped.
        observe: report what would be done, update the memory, change nothing.
        exclude: name patterns (shell wildcards) that are left alone, or a predicate of name and tensor.
        groups: names a tensor's group, for granularity "group".
        unit_dim: dimension that counts the units: a number, one per name pattern (others have 0; see
            `optim.unit_dims`), or a function of name and tensor.
        where: "gradient", or "update": what the optimizer's step changes, divided by its learning rate. The second
            works through `attach` alone and needs room for a copy of the weights.
        foreach: one fused call for many tensors; None means yes.

    Raises:
        UsageError: an unknown choice, or choices that exclude each other.

    Examples:
        >>> weight = torch.nn.Parameter(torch.zeros(2))
        >>> weight.grad = torch.tensor([3.0, 4.0])
        >>> report = Clip(1.0)([weight])
        >>> float(report.norm), weight.grad.tolist()
        (5.0, [0.6000000238418579, 0.800000011920929])
    """

    def __init__(
        self,
        threshold: Threshold | float,
        *,
        granularity: Literal["global", "group", "tensor", "unit", "coordinate"] = "global",
        statistic: Literal["l2", "l1", "max"] | float = "l2",
        action: Literal["scale", "renormalise", "clamp", "rescale"] = "scale",
        eps: float = 0.0,
        eps_mode: Literal["add", "max"] = "add",
        only_above: bool = True,
        nonfinite: Literal["raise", "skip", "zero", "propagate"] = "raise",
        observe: bool = False,
        exclude: str | Iterable[str] | Callable[[str, Tensor], bool] = (),
        groups: Callable[[str], str] | None = None,
        unit_dim: int | Mapping[str, int] | Callable[[str, Tensor], int] = 0,
        where: Literal["gradient", "update"] = "gradient",
        foreach: bool | None = None,
    ) -> None:
        _one_of("granularity", granularity, GRANULARITIES)
        _one_of("action", action, ACTIONS)
        _one_of("eps_mode", eps_mode, ("add", "max"))
        _one_of("nonfinite", nonfinite, NONFINITE)
        _one_of("where", where, ("gradient", "update"))
        order = STATISTICS.get(statistic) if isinstance(statistic, str) else float(statistic)
        if order is None or not order > 0:
            raise UsageError(f"statistic must be one of {', '.join(STATISTICS)} or an order p > 0, got {statistic!r}")
        if granularity == "coordinate" and (action not in ("clamp", "rescale") or order != math.inf):
            raise UsageError("granularity 'coordinate' goes with action='clamp' or 'rescale' and statistic='max'")
        if action in ("clamp", "rescale") and (order != math.inf or granularity == "unit"):
            raise UsageError(
                f"action {action!r} compares single coordinates, so it goes with statistic='max' and not with units"
            )
        self.threshold = as_threshold(threshold)
        self.granularity, self.order, self.action = granularity, float(order), action
        self.eps, self.eps_mode, self.only_above = eps, eps_mode, only_above
        self.nonfinite, self.observe, self.groups, self.unit_dim, self.where = (
            nonfinite,
            observe,
            groups,
            unit_dim,
            where,
        )
        self.exclude = exclude if callable(exclude) else ((exclude,) if isinstance(exclude, str) else tuple(exclude))
        self.foreach = foreach is not False
        self.report: ClipReport | None = None
        self._slots = Slots()
        self._late: tuple[Tensor, Any, str] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.threshold!r}, granularity={self.granularity!r}, action={self.action!r})"

    # -- calling ---------------------------------------------------------------------------------------------------

    def __call__(self, params: Parameters) -> ClipReport:
        """Clip the gradients of these parameters in place; those without a gradient are passed over.

        Args:
            params: tensors, or (name, tensor) pairs as `named_parameters` gives them. Memory is kept by name, else by
                position; a tensor that appears twice counts once.

        Returns:
            The report, also kept as `clip.report`.

        Raises:
            NonFiniteGradient: with `nonfinite="raise"`.
            NotSupported: a sparse gradient.
            UsageError: it acts on updates, which only an attached clip sees.
        """
        return self.run(entries_of(params), None)

    def attach(self, optimizer: Any, names: Iterable[tuple[str, Tensor]] | None = None) -> Attachment:
        """Clip before every step of a `torch.optim` optimizer; see `optim.attach`.

        Args:
            optimizer: the optimizer, or a wrapper around one (Accelerate's).
            names: `model.named_parameters()`, so that memory and exclusions go by name.

        Returns:
            A handle with `.remove()`.
        """
        from binderclip.optim.attach import attach

        return attach(self, optimizer, names)

    @torch.no_grad()
    def run(
        self, entries: Sequence[Entry], target: StepTarget | None, taken: Bool[Tensor, ""] | None = None
    ) -> ClipReport:
        """The work behind `__call__` and `attach`.

        Args:
            entries: parameters with keys and group labels.
            target: the optimizer that is about to step, None for a plain call.
            taken: false where the memory must not see this step; None for true.
        """
        self.raise_late()
        if self.where == "update" and any(entry.update is None for entry in entries):
            raise UsageError(
                "this clip acts on the optimizer's updates (where='update'): attach(optimizer) it, unwrapped"
            )
        chosen = [entry for entry in entries if entry.grad is not None and not self._excluded(entry)]
        if not chosen:
            self.report = empty_report()
            return self.report
        grads = [dense_grad(entry) for entry in chosen]
        local = [local_shard(grad) for grad in grads]
        on_host = gradients.reads_are_free(local)
        if self.nonfinite == "zero" and not on_host and not self.observe:
            zero_nonfinite_(local)
        found = self._measure(chosen, grads, target)
        finite = found.norm.isfinite()
        if on_host and self.nonfinite == "zero" and not self.observe and not bool(finite):
            zero_nonfinite_(local)
            found = self._measure(chosen, grads, target)
            finite = found.norm.isfinite()
        gone = self._give_up(entries, chosen, found, finite, on_host, target)
        if gone:
            return self._report(found, found.stat.new_full((), math.inf), None, ~finite, chosen)
        reading = self._reading(chosen, grads, found, finite if taken is None else finite & taken, target)
        limit = self.threshold.limit(reading)
        upwards = self.action == "renormalise"
        factor = coefficient(
            found.stat, limit, eps=self.eps, eps_mode=self.eps_mode, only_above=self.only_above, upwards=upwards
        )
        if not self.observe:
            self._act(chosen, local, found, limit, factor, on_host, target)
        if not on_host or bool(finite):
            self.threshold.observe(reading, found.stat * factor)
        return self._report(found, limit, factor, ~finite if self.nonfinite != "propagate" else finite & False, chosen)

    # -- steps of a call -------------------------------------------------------------------------------------------

    def _measure(self, chosen: Sequence[Entry], tensors: Sequence[Tensor], target: StepTarget | None) -> Measured:
        labels = [self.groups(entry.key) if self.groups else entry.label for entry in chosen]
        if self.granularity == "group" and not all(labels):
            raise UsageError("granularity 'group' needs groups=, a function from a name to its group, or attach()")
        found = measure(
            tensors,
            self.granularity,
            self.order,
            labels=labels,
            unit_dims=self._unit_dims(chosen),
            foreach=self.foreach,
        )
        scale = None if target is None else target.scale
        return found if scale is None else found.divided_by(scale)

    def _unit_dims(self, chosen: Sequence[Entry]) -> list[int]:
        if self.granularity != "unit":
            return []
        rule = self.unit_dim
        if callable(rule):
            return [rule(entry.key, entry.parameter) for entry in chosen]
        if isinstance(rule, int):
            return [rule] * len(chosen)
        matching = [entry.matches(rule, "unit_dim") for entry in chosen]
        return [0 if pattern is None else rule[pattern] for pattern in matching]

    def _reading(
        self,
        chosen: Sequence[Entry],
        grads: list[Tensor],
        found: Measured,
        finite: Tensor,
        target: StepTarget | None,
    ) -> Reading:
        def weights() -> Tensor:
            return self._measure(chosen, [entry.parameter for entry in chosen], None).stat

        keys = found.labels if self.granularity == "group" else [entry.key for entry in chosen]
        if self.granularity == "global":
            keys = [""]
        slots = self._slots.find(keys, found.sizes, found.stat.device)
        return Reading(
            stat=found.stat,
            slots=slots,
            capacity=self._slots.capacity,
            norm=found.norm,
            finite=finite,
            weights=weights,
            entries=grads,
            owner=None if self.granularity == "unit" else found.owner,
            scale=None if target is None else target.scale,
        )

    def _act(
        self,
        chosen: Sequence[Entry],
        local: list[Tensor],
        found: Measured,
        limit: Tensor,
        factor: Tensor,
        on_host: bool,
        target: StepTarget | None,
    ) -> None:
        """Change the gradients, or have the optimizer do it; on a CPU only those that need it."""
        # NaN is not 1, so that a factor of NaN is multiplied in as torch does
        if on_host and bool((factor == 1).all()):
            return
        if self.granularity == "global" and self.action in ("scale", "renormalise"):
            if target is not None and target.folds:
                target.fold(factor[0])
            else:
                scale_(local, factor[0])
            return
        scale = None if target is None else target.scale
        dims = self._unit_dims(chosen)
        act_(local, found, limit, factor, action=self.action, unit_dims=dims, scale=scale, on_host=on_host)

    def _give_up(
        self,
        entries: Sequence[Entry],
        chosen: Sequence[Entry],
        found: Measured,
        finite: Tensor,
        on_host: bool,
        target: StepTarget | None,
    ) -> bool:
        """Treat a gradient that is not finite; whether the step is given up, as far as the host knows."""
        by_scaler = target is not None and target.by_scaler
        policy = "skip" if by_scaler else self.nonfinite
        if self.observe or policy == "propagate" or (policy == "zero" and not on_host):
            return False
        if target is not None and target.takes_flag and not on_host:
            target.flag(~finite)
            if policy == "raise":
                self._late = (*_copy_to_host(finite), "at the previous step")
            return False
        if bool(finite):
            return False
        for entry in entries:
            entry.drop()
        if policy != "skip":
            bad = [entry.key for entry, ok in zip(chosen, found.tensors.isfinite().tolist(), strict=True) if not ok]
            raise NonFiniteGradient(explain_nonfinite(bad))
        return True

    def pass_on(self, other: Clip) -> None:
        """Take over the report of a clip that looked at the gradients for this one, and what it still has to raise."""
        self.report, self._late = other.report, other._late

    def raise_late(self) -> None:
        """Raise what an accelerator found at the previous step, once its flag has arrived.

        Raises:
            NonFiniteGradient: that step's gradient was not finite (the fused optimizer skipped it).
        """
        if self._late is None:
            return
        (finite, event, when), self._late = self._late, None
        event.synchronize()
        if not bool(finite):
            raise NonFiniteGradient(explain_nonfinite([], when))

    def _excluded(self, entry: Entry) -> bool:
        if callable(self.exclude):
            return bool(self.exclude(entry.key, entry.parameter))
        return entry.matches(self.exclude, "exclude") is not None

    def _report(
        self, found: Measured, limit: Tensor, factor: Tensor | None, skipped: Tensor, chosen: Sequence[Entry]
    ) -> ClipReport:
        factor = torch.ones_like(found.stat) if factor is None else factor
        self.report = ClipReport(
            norm=found.norm,
            stat=found.stat,
            limit=limit.expand_as(found.stat),
            scale=factor,
            clipped=found.stat > limit,
            skipped=skipped,
            tensor_norms=found.tensors,
            names=tuple(entry.key for entry in chosen),
        )
        return self.report

    # -- saving ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The threshold's memory and which key owns which place in it; tensors and plain values only."""
        return {"slots": self._slots.state_dict(), "threshold": self.threshold.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state exactly."""
        self._slots.load_state_dict(state["slots"])
        self.threshold.load_state_dict(state["threshold"])


def _one_of(name: str, value: Any, known: Sequence[str]) -> None:
    if value not in known:
        raise UsageError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def _copy_to_host(flag: Tensor) -> tuple[Tensor, Any]:
    """A copy that arrives by itself, and the event that says when."""
    host = torch.empty((), dtype=flag.dtype, pin_memory=True)
    host.copy_(flag, non_blocking=True)
    event = torch.get_device_module(flag.device).Event()
    event.record()
    return host, event
