"""`Clip`: granularity x statistic x threshold x action."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.optim.clip.actions import act_, coefficient, scale_
from binderclip.optim.clip.attach import Attachment, attach
from binderclip.optim.clip.call import ClipCall
from binderclip.optim.clip.choices import Names, check_choices, order_of, patterns
from binderclip.optim.clip.kept import Kept
from binderclip.optim.clip.report import ClipReport, empty_report
from binderclip.optim.clip.threshold import Reading, Threshold, as_threshold
from binderclip.optim.gradients import collect
from binderclip.optim.gradients.collect import (
    KeyedParameter,
    Parameters,
    copy_to_host,
    entries_of,
    gradients_of,
    real_only,
    shrink_,
)
from binderclip.optim.gradients.measure import local_shards
from binderclip.optim.gradients.nonfinite import NonFiniteGradient, explain_nonfinite, zero_nonfinite_
from binderclip.optim.gradients.statistics import Slots, StepStatistics, block_stat, measure

if TYPE_CHECKING:
    from binderclip.optim.clip.target import StepTarget

__all__ = ["Clip"]

SHRINK, HUGE = 0.02, 1e10
"""Of the policy "shrink": the share of the weights, and the norm above which a gradient counts as not finite."""


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
            Two remember a tensor of each gradient's size: "centre" replaces g by m + clip(g - m), which is also the
            next m, a running median of the gradients; "residual" adds what earlier calls cut off before it clips. Both
            scale (granularity "coordinate": clamp), and what is measured and reported is g - m, or the sum.
        eps, eps_mode, only_above: see `optim.coefficient`.
        nonfinite: what a NaN or an infinity does. "raise" leaves the gradients unused (`grad = None`) and raises
            `NonFiniteGradient`; "skip" does the same without raising, so that the optimizer's step changes nothing;
            "zero" replaces the offending entries by 0 and goes on; "shrink" makes the step one that shrinks the
            tensors that `shrink` names (their gradient becomes 0.02 times their weights, all others' 0; a norm above
            1e10 counts as infinite); "propagate" looks away. It never enters a threshold's memory. A GradScaler's
            overflows are always skipped.
        observe: report what would be done, update the memory, change nothing.
        exclude: name patterns (shell wildcards) that are left alone, or a predicate of name and tensor.
        shrink: the same, of what `nonfinite="shrink"` shrinks; default the recurrent matrices of torch's RNNs.
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
        action: Literal["scale", "renormalise", "clamp", "rescale", "centre", "residual"] = "scale",
        eps: float = 0.0,
        eps_mode: Literal["add", "max"] = "add",
        only_above: bool = True,
        nonfinite: Literal["raise", "skip", "zero", "shrink", "propagate"] = "raise",
        observe: bool = False,
        exclude: Names = (),
        shrink: Names = "*weight_hh*",
        groups: Callable[[str], str] | None = None,
        unit_dim: int | Mapping[str, int] | Callable[[str, Tensor], int] = 0,
        where: Literal["gradient", "update"] = "gradient",
        foreach: bool | None = None,
    ) -> None:
        check_choices(granularity, action, eps_mode, nonfinite, where)
        order = order_of(statistic, granularity, action)
        self.threshold = as_threshold(threshold)
        self.granularity, self.order, self.action = granularity, order, action
        self.eps, self.eps_mode, self.only_above = eps, eps_mode, only_above
        self.nonfinite, self.observe, self.where = nonfinite, observe, where
        self.groups, self.unit_dim = groups, unit_dim
        self.exclude, self.shrink = patterns(exclude), patterns(shrink)
        self.foreach = foreach is not False
        self.report: ClipReport | None = None
        self._slots = Slots()
        # what happens to what is measured, and the memory of an action that measures something else than the gradient
        self._does: str = action
        self._kept: Kept | None = None
        if action == "centre" or action == "residual":
            self._does, self._kept = "clamp" if granularity == "coordinate" else "scale", Kept(action)
        self._late: tuple[Tensor, Any, str] | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.threshold!r}, granularity={self.granularity!r}, action={self.action!r})"

    # -- calling ---------------------------------------------------------------------------------------------------

    def __call__(self, params: Parameters) -> ClipReport:
        """Clip the gradients of these parameters in place; those without a gradient are passed over.

        Args:
            params: tensors, (name, tensor) pairs as `named_parameters` gives them, or the module. Memory is kept by
                name, else by position; a tensor that appears twice counts once.

        Returns:
            The report, also kept as `clip.report`.

        Raises:
            NonFiniteGradient: with `nonfinite="raise"`.
            NotSupported: a sparse gradient, or a complex one whose coordinates are to be clamped.
            UsageError: it acts on updates, which only an attached clip sees.
        """
        return self.run(entries_of(params), None)

    def attach(self, optimizer: Any, names: nn.Module | Iterable[tuple[str, Tensor]] | None = None) -> Attachment:
        """Clip before every step of a `torch.optim` optimizer; see `optim.attach`.

        Args:
            optimizer: the optimizer, or a wrapper around one (Accelerate's).
            names: the model, or `model.named_parameters()`, so that memory and exclusions go by name.

        Returns:
            A handle with `.remove()`.
        """
        return attach(self, optimizer, names)

    @torch.no_grad()
    def run(
        self, entries: Sequence[KeyedParameter], target: StepTarget | None, taken: Bool[Tensor, ""] | None = None
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
                "this clip acts on an optimizer's updates (where='update'): attach(optimizer) it, unwrapped"
            )
        if self.nonfinite == "shrink" and not any(self._named(self.shrink, "shrink", entry) for entry in entries):
            raise UsageError(f"nonfinite='shrink' finds nothing to shrink: no tensor's name fits {self.shrink}")
        chosen, grads = gradients_of(entries, self._excluded if self.exclude else None)
        if not chosen:
            self.report = empty_report()
            return self.report
        if self._does == "clamp":
            real_only(chosen)
        local = local_shards(grads)
        call = ClipCall(entries, chosen, grads, local, collect.reads_are_free(local), target, taken)
        zero = self.nonfinite == "zero" and not self.observe
        if zero and not (call.on_host and self._kept is None):
            zero_nonfinite_(local)
        if self._kept is not None:
            return self._run_kept(self._kept, call)
        statistics = self._measure(call)
        if call.on_host and zero and not bool(statistics.norm.isfinite()):
            zero_nonfinite_(local)
            statistics = self._measure(call)
        return self._finish(call, statistics)[0]

    # -- steps of a call -------------------------------------------------------------------------------------------

    def _run_kept(self, kept: Kept, call: ClipCall) -> ClipReport:
        """The rest of `run` for an action with a memory, which clips vectors of its own."""
        vectors = kept.vectors(call.chosen, call.grads, call.scale)
        # they are not scaled, and the optimizer cannot scale them
        own = replace(call, grads=vectors, local=local_shards(vectors), scaled=False)
        report, finite = self._finish(own, self._measure(own))
        if finite is not None:
            kept.finish(call.chosen, call.grads, vectors, call.scale, finite, write=not self.observe)
        return report

    def _finish(self, call: ClipCall, statistics: StepStatistics) -> tuple[ClipReport, Tensor | None]:
        """Judge, act and remember; the report, and where the step is taken whether it is finite."""
        finite = statistics.norm.isfinite()
        if self.nonfinite == "shrink":
            finite = finite & (statistics.norm <= HUGE)
        if self._give_up(call, statistics, finite):
            return self._report(statistics, statistics.stat.new_full((), math.inf), None, ~finite, call.chosen), None
        reading = self._reading(call, statistics, finite if call.taken is None else finite & call.taken)
        limit = self.threshold.limit(reading)
        upwards = self.action == "renormalise"
        factor = coefficient(
            statistics.stat, limit, eps=self.eps, eps_mode=self.eps_mode, only_above=self.only_above, upwards=upwards
        )
        if self.nonfinite == "shrink" and not call.on_host:
            factor = torch.where(finite, factor, torch.ones_like(factor))
        if not self.observe or self._kept is not None:
            self._act(call, statistics, limit, factor)
        if not call.on_host or bool(finite):
            self.threshold.observe(reading, statistics.stat * factor)
        skipped = ~finite if self.nonfinite != "propagate" else finite & False
        return self._report(statistics, limit, factor, skipped, call.chosen), finite

    def _measure(self, call: ClipCall) -> StepStatistics:
        statistics = measure(call.grads, self.granularity, self.order, **self._blocks(call.chosen))
        return statistics if call.scale is None else statistics.divided_by(call.scale)

    def _blocks(self, chosen: Sequence[KeyedParameter]) -> dict[str, Any]:
        """How tensors fall into blocks, as `measure` wants it."""
        labels: list[str] = []
        if self.granularity == "group":
            labels = [self.groups(entry.key) if self.groups else entry.label for entry in chosen]
            if not all(labels):
                raise UsageError("granularity 'group' needs groups=, a function from a name to its group, or attach()")
        return {"labels": labels, "unit_dims": self._unit_dims(chosen), "foreach": self.foreach}

    def _unit_dims(self, chosen: Sequence[KeyedParameter]) -> list[int]:
        if self.granularity != "unit":
            return []
        rule = self.unit_dim
        if callable(rule):
            return [rule(entry.key, entry.parameter) for entry in chosen]
        if isinstance(rule, int):
            return [rule] * len(chosen)
        matching = [entry.matches(rule, "unit_dim") for entry in chosen]
        return [0 if pattern is None else rule[pattern] for pattern in matching]

    def _reading(self, call: ClipCall, statistics: StepStatistics, finite: Tensor) -> Reading:
        chosen = call.chosen

        def weights() -> Tensor:
            parameters = [entry.parameter for entry in chosen]
            return block_stat(parameters, self.granularity, self.order, **self._blocks(chosen))

        if self.granularity == "global":
            keys = [""]
        else:
            keys = statistics.labels if self.granularity == "group" else [entry.key for entry in chosen]
        slots = self._slots.find(keys, statistics.sizes, statistics.stat.device)
        return Reading(
            stat=statistics.stat,
            slots=slots,
            capacity=self._slots.capacity,
            norm=statistics.norm,
            finite=finite,
            weights=weights,
            entries=call.grads,
            owner=None if self.granularity == "unit" else statistics.owner,
            scale=call.scale,
        )

    def _act(self, call: ClipCall, statistics: StepStatistics, limit: Tensor, factor: Tensor) -> None:
        """Change the gradients, or have the optimizer do it; on a CPU only those that need it."""
        # NaN is not 1, so that a factor of NaN is multiplied in as torch does
        if call.on_host and bool((factor == 1).all()):
            return
        if self.granularity == "global" and self._does in ("scale", "renormalise"):
            if call.target is not None and call.target.folds and call.scaled:
                call.target.fold(factor[0])
            else:
                scale_(call.local, factor[0])
            return
        dims = self._unit_dims(call.chosen)
        how: dict[str, Any] = {"unit_dims": dims, "scale": call.scale, "on_host": call.on_host}
        act_(call.local, statistics, limit, factor, action=self._does, **how)

    def _give_up(self, call: ClipCall, statistics: StepStatistics, finite: Tensor) -> bool:
        """Treat a gradient that is not finite; whether the step is given up, as far as the host knows."""
        target, on_host = call.target, call.on_host
        policy = "skip" if target is not None and target.by_scaler else self.nonfinite
        if self.observe or policy == "propagate" or (policy == "zero" and not on_host):
            return False
        if policy == "shrink":
            if on_host and bool(finite):
                return False
            named = partial(self._named, self.shrink, "shrink")
            scale = None if target is None else target.scale
            shrink_(call.entries, named, SHRINK, finite=None if on_host else finite, scale=scale)
            return on_host
        if target is not None and target.takes_flag and not on_host:
            target.flag(~finite)
            if policy == "raise":
                self._late = (*copy_to_host(finite), "at the previous step")
            return False
        if bool(finite):
            return False
        for entry in call.entries:
            entry.drop()
        if policy != "skip":
            fine = statistics.tensors.isfinite().tolist()
            bad = [entry.key for entry, ok in zip(call.chosen, fine, strict=True) if not ok]
            raise NonFiniteGradient(explain_nonfinite(bad))
        return True

    def guard(self, entries: Sequence[KeyedParameter], target: StepTarget | None) -> ClipReport:
        """Treat gradients that are not finite by this clip's policy, and clip nothing."""
        looking = Clip(math.inf, nonfinite=self.nonfinite, observe=self.observe, exclude=self.exclude)
        report = looking.run(entries, target)
        self.report, self._late = looking.report, looking._late
        return report

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

    def _excluded(self, entry: KeyedParameter) -> bool:
        return self._named(self.exclude, "exclude", entry)

    @staticmethod
    def _named(names: Any, setting: str, entry: KeyedParameter) -> bool:
        if callable(names):
            return bool(names(entry.key, entry.parameter))
        return entry.matches(names, setting) is not None

    def _report(
        self,
        statistics: StepStatistics,
        limit: Tensor,
        factor: Tensor | None,
        skipped: Tensor,
        chosen: Sequence[KeyedParameter],
    ) -> ClipReport:
        factor = torch.ones_like(statistics.stat) if factor is None else factor
        self.report = ClipReport(
            norm=statistics.norm,
            stat=statistics.stat,
            limit=limit.expand_as(statistics.stat),
            scale=factor,
            clipped=statistics.stat > limit,
            skipped=skipped,
            tensor_norms=statistics.tensors,
            names=tuple(entry.key for entry in chosen),
        )
        return self.report

    # -- saving ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The threshold's memory and which key owns which place in it; tensors and plain values only."""
        kept = {} if self._kept is None else {"kept": self._kept.state_dict()}
        return {"slots": self._slots.state_dict(), "threshold": self.threshold.state_dict(), **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved state exactly.

        Raises:
            UsageError: the state of a clip of another kind.
        """
        try:
            self.threshold.load_state_dict(state["threshold"])
            if self._kept is not None:
                self._kept.load_state_dict(state["kept"])
            self._slots.load_state_dict(state["slots"])
        except KeyError as error:
            raise UsageError(
                f"the saved state of this clip has no {error}: another kind of clip wrote it than {self!r}; load it "
                "into one with the same settings, or attach after load_state_dict to start with an empty memory"
            ) from error
