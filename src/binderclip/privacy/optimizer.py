"""`PrivateOptimizer`: one ordinary optimizer, fed with clipped sums and noise, and nothing else."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer

from binderclip.errors import CheckpointError, UsageError
from binderclip.numeric import check_number
from binderclip.privacy.accounting.ledger import BudgetSpent, Ledger, joint_multiplier
from binderclip.privacy.accounting.sampling import unseeded_generator
from binderclip.privacy.accounting.statistic import PrivateBatch, Statistic
from binderclip.privacy.clipping.feedback import Feedback
from binderclip.privacy.clipping.rules import SensitivityRule, as_rule
from binderclip.privacy.controllers.controller import Controller, PublicStats
from binderclip.privacy.per_sample.ghost import unusable
from binderclip.privacy.per_sample.recorder import PerSampleRecorder
from binderclip.privacy.per_sample.refusals import refuse_loss
from binderclip.settings import check_choice

__all__ = ["PrivateOptimizer"]


@dataclass
class _Pending:
    """What the step that is under way has gathered."""

    statistics: list[Statistic]
    sums: list[Tensor] | None = None
    raw: list[Tensor] | None = None
    norms: list[Tensor] = field(default_factory=list)
    totals: dict[str, Tensor] = field(default_factory=dict)
    multipliers: list[float] = field(default_factory=list)


class PrivateOptimizer:
    """Differentially private steps of any `torch.optim` optimizer.

    Every step goes: per-sample gradient norms -> weights of the rule -> weighted SUM -> feedback -> noise on the sum ->
    division by the EXPECTED batch size -> inner optimizer -> ledger -> controller. Nothing else writes `.grad`.

        for x, y in batches:                                   # Poisson samples
            losses = F.cross_entropy(model(x), y, reduction="none")
            optimizer.backward(losses)                         # once per micro-batch; clips and adds up
            optimizer.step()                                   # noise, step, account

    Abadi et al., "Deep Learning with Differential Privacy", CCS 2016; the sums by book-keeping (Bu et al., ICML 2023).

    Args:
        optimizer: over (some of) the model's parameters; those it holds are trained, all others stay.
        rule: a `SensitivityRule`, or a number: C of flat clipping.
        noise_multiplier: sigma; the noise on the sum has standard deviation sigma * sensitivity.
        expected_batch_size: sample rate times number of records; never the actual size, which is private.
        model: whose forward pass in training mode is recorded.
        sample_rate: of the Poisson batches, for the ledger.
        feedback: such as `DiceFeedback`.
        controller: chooses clip norms and noise before each step.
        ledger: to go on with; default: a new one.
        generator: of the noise alone, so that the data order does not depend on it; default: one that the system seeds.
            A seeded one is for experiments: a release needs a secure source of randomness, which is out of scope here.
        check: "first" verifies on the first batch that no sample's loss depends on another sample; "always", "never".

    Raises:
        UsageError: values out of range, parameters that are not the model's, an optimizer or rule that does not fit.
        NotSupported: a model with layers that mix samples.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        rule: SensitivityRule | float,
        noise_multiplier: float,
        expected_batch_size: float,
        *,
        model: nn.Module,
        sample_rate: float,
        feedback: Feedback | None = None,
        controller: Controller | None = None,
        ledger: Ledger | None = None,
        generator: torch.Generator | None = None,
        check: str = "first",
    ) -> None:
        check_number("noise_multiplier", noise_multiplier, least=0)
        if not expected_batch_size > 0 or not 0 < sample_rate <= 1:
            raise UsageError(
                f"expected_batch_size must be above 0 and sample_rate in (0, 1], got {expected_batch_size} and "
                f"{sample_rate}"
            )
        check_choice("check", check, ("first", "always", "never"))
        self.inner, self.model = optimizer, model
        self.recorder = PerSampleRecorder(model, _named(model, optimizer))
        self.rule = as_rule(rule)
        self.groups = self.rule.assign(self.recorder.names)
        self.noise_multiplier, self.expected_batch_size = float(noise_multiplier), float(expected_batch_size)
        self.sample_rate = float(sample_rate)
        self.feedback, self.controller = feedback, controller or Controller()
        self.ledger = ledger if ledger is not None else Ledger()
        self.generator = generator or unseeded_generator(self.params[0].device)
        self.check = check
        self.steps = 0
        self.norms: Float[Tensor, "B J"] | None = None
        self._checked = check == "never"
        self._update: tuple[Tensor, ...] = ()
        self._released: dict[str, Tensor] = {}
        self._pending: _Pending | None = None
        self._context: contextlib.ExitStack | None = None
        self._by_hand = False
        if feedback is not None and len(self.rule.clip_norms) > 1:
            raise UsageError("feedback clips over all parameters jointly: use it with flat clipping")
        self.rule.noise_stds(self.noise_multiplier)
        self._hooks = [
            model.register_forward_pre_hook(self._enter, with_kwargs=True),
            model.register_forward_hook(self._leave, with_kwargs=True, always_call=True),
        ]

    # -- what an optimizer shows -----------------------------------------------------------------------------------

    @property
    def params(self) -> list[Tensor]:
        """The parameters that are trained."""
        return self.recorder.params

    @property
    def names(self) -> list[str]:
        """Their names in the model."""
        return self.recorder.names

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of the inner optimizer, so that learning-rate schedules work."""
        return self.inner.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop what was accumulated since the last step, and the gradients."""
        self._pending = None
        self.inner.zero_grad(set_to_none)

    def detach(self) -> None:
        """Stop recording the model's forward passes."""
        for hook in self._hooks:
            hook.remove()

    # -- recording -------------------------------------------------------------------------------------------------

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if module.training and torch.is_grad_enabled() and self._context is None:
            self._context = contextlib.ExitStack()
            self._context.enter_context(self.recorder.recording())

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._context is not None and not self._by_hand:
            self._context.close()
            self._context = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[None]:
        """Record everything inside, for losses that call other methods than the model's forward pass."""
        with contextlib.ExitStack() as stack:
            self._context, self._by_hand = stack, True
            try:
                stack.enter_context(self.recorder.recording())
                yield
            finally:
                self._context, self._by_hand = None, False

    # -- a step ----------------------------------------------------------------------------------------------------

    def backward(self, losses: Float[Tensor, "B"]) -> None:
        """Go back from per-sample losses, clip, and add to the sum of this step.

        Several calls before a step are the micro-batches of one batch: the result is that of the whole batch.

        Args:
            losses: (B,), each a function of one sample alone; the forward pass must have been recorded.

        Raises:
            UsageError: another shape, or no recorded forward pass.
            NotSupported: samples are coupled (as in a contrastive loss), or an operation cannot be handled.
            BudgetSpent: the controller has stopped.
        """
        pending = self._begin()
        if losses.ndim == 1 and len(losses) == 0:
            self.recorder.clear()
            return
        check = not self._checked and losses.ndim == 1 and len(losses) > 1
        try:
            self.recorder.backward(losses, check=check)
            self._checked = self._checked or (check and self.check == "first")
            self._add(pending, losses.detach())
        finally:
            self.recorder.clear()

    def accumulate(self, loss_fn: Callable[..., Tensor], *batch: Any, microbatch: int | None = None) -> Tensor:
        """Record `loss_fn(model, *batch)`, and `backward` from it, in micro-batches where asked.

        Args:
            loss_fn: (model, *batch) -> losses (B,).
            batch: tensors whose dimension 0 is the batch.
            microbatch: samples at a time; the sum is the same.

        Returns:
            The losses (B,), which are private.
        """
        refuse_loss(loss_fn)
        rows = len(batch[0])
        self._begin()
        if not rows:
            return torch.zeros(0)
        norms = []
        for start in range(0, rows, microbatch or rows):
            part = [t[start : start + (microbatch or rows)] if isinstance(t, Tensor) else t for t in batch]
            with self.recording():
                losses = loss_fn(self.model, *part)
            self.backward(losses)
            norms.append(losses.detach())
        return torch.cat(norms)

    def _begin(self) -> _Pending:
        """Once a step, before its first sample: ask the controller."""
        if self._pending is not None:
            return self._pending
        setting = self.controller.before_step(self.stats())
        if setting.stop:
            raise BudgetSpent(f"the controller stopped after {self.steps} steps: the budget is used up")
        if setting.clip_norms is not None:
            self.rule.clip_norms = setting.clip_norms
        if setting.noise_multiplier is not None:
            self.noise_multiplier = float(setting.noise_multiplier)
        statistics = [*self.rule.statistics(self.noise_multiplier), *self.controller.statistics(self.stats())]
        self._pending = _Pending(statistics)
        return self._pending

    def _add(self, pending: _Pending, losses: Tensor) -> None:
        norms = self.recorder.squares(self.groups, self.rule.groups).sqrt()
        scales = self.rule.scales(norms)
        bad = unusable(norms)
        pending.sums = _plus(pending.sums, self.recorder.weighted_sum(scales, self.groups, bad))
        pending.norms.append(norms)
        if self.feedback is not None:
            pending.raw = _plus(pending.raw, self.recorder.weighted_sum(torch.ones_like(scales), self.groups, bad))
        if not pending.statistics:
            return

        def weighted(weights: Tensor) -> tuple[Tensor, ...]:
            columns = weights if weights.ndim == 2 else weights[:, None].expand(-1, self.rule.groups)
            return tuple(self.recorder.weighted_sum(columns, self.groups, bad))

        batch = PrivateBatch(norms, scales, self.rule.clip_norms, losses, weighted)
        for statistic in pending.statistics:
            value = statistic.value(batch).detach()
            before = pending.totals.get(statistic.name)
            pending.totals[statistic.name] = value if before is None else before + value

    def step(self, closure: None = None) -> None:
        """Noise, step, account. Without a `backward` before it, the batch was empty: noise is added all the same.

        Raises:
            UsageError: a closure, which would compute gradients behind the optimizer's back.
            BudgetSpent: the controller has stopped.
        """
        if closure is not None:
            raise UsageError("PrivateOptimizer takes no closure: call backward(losses), then step()")
        pending = self._begin()
        sums = pending.sums or [torch.zeros_like(p) for p in self.params]
        if self.feedback is not None:
            sums = self.feedback.combine(sums, pending.raw or sums, self.expected_batch_size)
        for parameter, total, noise in zip(self.params, sums, self._noise(), strict=True):
            # in place: these tensors are ours, and each is as large as the model
            parameter.grad = (total if noise is None else total.add_(noise)).div_(self.expected_batch_size)
        self._release_all(pending)
        self.inner.step()
        self.ledger.step(
            joint_multiplier([self.rule.multiplier(self.noise_multiplier), *pending.multipliers]), self.sample_rate
        )
        self.steps += 1
        if type(self.controller) is not Controller:
            # a copy: the inner optimizer or the user may change or drop .grad
            self._update = tuple(p.grad.detach().clone() for p in self.params if p.grad is not None)
        self.norms = torch.cat(pending.norms) if pending.norms else None
        self.rule.update(self._released, self.expected_batch_size)
        self._pending = None

    def _noise(self) -> list[Tensor | None]:
        """Drawn as one flat vector, cut into the parameters' shapes."""
        stds = list(self.rule.noise_stds(self.noise_multiplier))
        if self.feedback is not None and self.noise_multiplier:
            # the rule's multiplier is what the ledger gets: above the given one where a statistic is paid from it
            stds = [self.rule.multiplier(self.noise_multiplier) * self.feedback.sensitivity(self.rule.sensitivity)]
        if not any(stds):
            return [None] * len(self.params)
        first = self.params[0]
        drawn = torch.randn(sum(p.numel() for p in self.params), generator=self.generator, device=first.device)
        parts = drawn.split([p.numel() for p in self.params])
        return [
            part.mul_(stds[group]).view_as(p).to(p.dtype)
            for part, p, group in zip(parts, self.params, self.groups, strict=True)
        ]

    def release(self, name: str, value: Tensor, sensitivity: float, multiplier: float) -> Tensor:
        """Release a sum over the current batch: noise is added here, the ledger entry is joined to the step's.

        Args:
            name: for the report.
            value: sum over samples. sensitivity: its largest change by one sample.
            multiplier: noise over sensitivity.

        Returns:
            The noised value.
        """
        Statistic(name, lambda batch: value, sensitivity, multiplier)
        self._begin().multipliers.append(multiplier)
        noise = torch.randn(value.shape, generator=self.generator, device=value.device)
        return value + (noise * (sensitivity * multiplier)).to(value.dtype)

    def _release_all(self, pending: _Pending) -> None:
        self._released = {}
        own = {statistic.name for statistic in self.rule.statistics(self.noise_multiplier)}
        for statistic in pending.statistics:
            value = pending.totals.get(statistic.name)
            if value is None:
                value = torch.zeros(statistic.shape, device=self.params[0].device)
            if statistic.name not in own and not self.controller.account_for_statistics:
                self._uncovered(statistic.name)
            elif self.noise_multiplier:
                value = self.release(statistic.name, value, statistic.sensitivity, statistic.multiplier)
            self._released[statistic.name] = value

    def _uncovered(self, name: str) -> None:
        note = f"statistic {name!r} of {type(self.controller).__name__}, released without noise"
        if note not in self.ledger.uncovered:
            self.ledger.uncovered.append(note)
            warnings.warn(f"epsilon does not cover the {note}", stacklevel=3)

    def stats(self) -> PublicStats:
        """What the controller sees."""
        return PublicStats(
            self.steps, self.rule.clip_norms, self.noise_multiplier, self.sample_rate, self.expected_batch_size,
            self.ledger, self._update, tuple(self.names), dict(self._released),
        )  # fmt: skip

    # -- saving ------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides how training goes on; with feedback it holds PRIVATE data.

        Raises:
            UsageError: between a `backward` and its `step`.
        """
        if self._pending is not None:
            raise UsageError("save between steps, not between backward() and step()")
        feedback = self.feedback.state_dict() if self.feedback is not None else {}
        return {
            "inner": self.inner.state_dict(), "rule": self.rule.state_dict(), "ledger": self.ledger.state_dict(),
            "controller": self.controller.state_dict(), "feedback": feedback, "steps": self.steps,
            "noise_multiplier": self.noise_multiplier, "generator": self.generator.get_state(),
            "update": list(self._update), "released": dict(self._released),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on exactly where `state_dict` was taken.

        Raises:
            CheckpointError: a state of something else.
        """
        missing = {"inner", "rule", "ledger", "generator", "steps"} - set(state)
        if missing:
            raise CheckpointError(f"the state of a PrivateOptimizer lacks {', '.join(sorted(missing))}")
        self.inner.load_state_dict(state["inner"])
        self.rule.load_state_dict(state["rule"])
        self.ledger.load_state_dict(state["ledger"])
        self.controller.load_state_dict(state["controller"])
        if self.feedback is not None:
            self.feedback.load_state_dict(state["feedback"])
        self.steps, self.noise_multiplier = state["steps"], state["noise_multiplier"]
        self.generator.set_state(state["generator"])
        self._update, self._released = tuple(state["update"]), dict(state["released"])
        self._pending = None


def _named(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    held = {id(p) for group in optimizer.param_groups for p in group["params"] if p.requires_grad}
    named: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if id(p) in held}
    if len(named) != len(held):
        raise UsageError(f"{len(held) - len(named)} of the optimizer's parameters are not parameters of the model")
    return named


def _plus(total: list[Tensor] | None, part: list[Tensor]) -> list[Tensor]:
    return part if total is None else [a + b for a, b in zip(total, part, strict=True)]
