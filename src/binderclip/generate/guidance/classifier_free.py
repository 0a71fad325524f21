"""Guidance by the difference between a conditional and an unconditional prediction."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate.denoisers.context import GuidanceTerm, StepContext
from binderclip.numeric import check_number

__all__ = ["ClassifierFreeGuidance"]


@dataclass(frozen=True)
class ClassifierFreeGuidance(GuidanceTerm):
    """Adds `(guidance_scale - 1) (eps(c) - eps(null))` to eps(c): `eps(null) + w (eps(c) - eps(null))` for scale w.

    Args:
        guidance_scale: as in diffusers: 1 is the conditional prediction alone, which then is all that is computed, 0
            the unconditional one. Papers that write eps(c) + gamma (eps(c) - eps(null)) have
            gamma = guidance_scale - 1.
        null: the condition that stands for none.
        start, stop: first and last step, as a part of all steps, between which it guides (the step at `stop` is out).

    Raises:
        UsageError: a scale that is not finite, or parts that are not 0 <= start <= stop <= 1.

    Paper: Ho and Salimans, Classifier-Free Diffusion Guidance (arXiv 2207.12598).
    """

    guidance_scale: float = 7.5
    null: Hashable = None
    start: float = 0.0
    stop: float = 1.0

    def __post_init__(self) -> None:
        check_number("guidance_scale", self.guidance_scale)
        check_number("start", self.start, least=0, most=1)
        check_number("stop", self.stop, least=0, most=1)
        if self.start > self.stop:
            raise UsageError(f"start = {self.start} is above stop = {self.stop}")

    @property
    def needs(self) -> Sequence[Hashable]:
        """The null condition, but at scale 1."""
        return () if self.guidance_scale == 1 else (self.null,)

    def __call__(self, step: StepContext) -> Tensor:
        """The increment of eps(c); 0 outside of the steps that it guides."""
        inside = int(self.start * step.n) <= step.i < int(self.stop * step.n)
        if self.guidance_scale == 1 or not inside:
            return torch.zeros_like(step.x)
        return (self.guidance_scale - 1) * (step.epsilon(step.condition) - step.epsilon(self.null))
