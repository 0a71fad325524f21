"""Clipping of what an optimizer's step changes, instead of the gradient it starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from binderclip.errors import NotSupported
from binderclip.optim.gradients.collect import KeyedParameter
from binderclip.optim.gradients.measure import accumulation_dtype
from binderclip.optim.gradients.nonfinite import NonFiniteGradient

if TYPE_CHECKING:
    from binderclip.optim.clip.report import ClipReport
    from binderclip.optim.clip.target import StepTarget

__all__ = ["UpdateClips"]


@runtime_checkable
class UpdateClip(Protocol):
    """What is asked of a clip with `where="update"`: the part of `Clip` that works around a step."""

    observe: bool

    def guard(self, entries: Sequence[KeyedParameter], target: StepTarget | None) -> ClipReport: ...
    def run(self, entries: Any, target: StepTarget | None, taken: Tensor | None) -> Any: ...


class UpdateClips:
    """Clips with `where="update"`, around one step: the weights before it are kept, what it did to them is clipped.

    Args:
        clips: in the order in which they act.
        entries: parameters with keys.
        rates: the learning rate of each, by which its change is divided.

    Raises:
        NotSupported: an optimizer whose groups have no learning rate.
    """

    def __init__(self, clips: Sequence[UpdateClip], entries: Sequence[KeyedParameter], rates: Sequence[Any]) -> None:
        self.clips = clips
        if any(rate is None for rate in rates):
            raise NotSupported("where='update' divides by the learning rate, and this optimizer's groups have no 'lr'")
        # a rate of zero moves nothing
        moving = [(entry, rate) for entry, rate in zip(entries, rates, strict=True) if not _is_zero(rate)]
        self.entries, self.rates = [entry for entry, _ in moving], [rate for _, rate in moving]
        self.old = [entry.parameter.detach().clone() for entry in self.entries]
        self.taken: Tensor | None = None
        self.given_up = False

    def guard(self, entries: Sequence[KeyedParameter], target: StepTarget | None) -> None:
        """Treat gradients that are not finite by each clip's policy before they reach the optimizer's state."""
        overflow = getattr(target.optimizer, "found_inf", None) if target is not None and target.by_scaler else None
        self.taken = None if overflow is None else overflow.reshape(()) == 0
        for clip in self.clips:
            report = clip.guard(entries, target)
            self.taken = ~report.skipped if self.taken is None else self.taken & ~report.skipped
        self.given_up = all(entry.grad is None for entry in entries)

    @torch.no_grad()
    def finish(self) -> None:
        """Clip what the step did.

        Raises:
            NonFiniteGradient: by a clip's policy; the weights are then what they were before the step.
        """
        if self.given_up:
            return
        moves = [
            replace(entry, update=_difference(old, entry.parameter, rate))
            for entry, old, rate in zip(self.entries, self.old, self.rates, strict=True)
        ]
        try:
            for clip in self.clips:
                clip.run([move for move in moves if move.update is not None], None, self.taken)
        except NonFiniteGradient:
            self._undo()
            raise
        if all(clip.observe for clip in self.clips):
            return
        if moves and all(move.update is None for move in moves):
            self._undo()
            return
        for move, old, rate in zip(moves, self.old, self.rates, strict=True):
            if move.update is None:
                continue
            # exactly zero where nothing was clipped
            cut = _difference(old, move.parameter, rate) - move.update
            move.parameter.add_((cut * rate).to(move.parameter.dtype))

    def _undo(self) -> None:
        for entry, old in zip(self.entries, self.old, strict=True):
            entry.parameter.copy_(old)


def _is_zero(rate: Any) -> bool:
    return not isinstance(rate, Tensor) and rate == 0


def _difference(old: Tensor, new: Tensor, rate: Any) -> Tensor:
    dtype = accumulation_dtype(old.dtype)
    return (old.to(dtype) - new.detach().to(dtype)) / rate
