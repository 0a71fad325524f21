"""Limits made of limits: the smaller of two, and one that follows a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.optim.clip.threshold import Reading, Threshold, as_threshold

__all__ = ["Min", "Scheduled"]


class Min(Threshold):
    """The smallest of several limits; each rule keeps its own memory.

    Args:
        rules: rules or numbers, at least one.

    Raises:
        UsageError: none was given.
    """

    def __init__(self, *rules: Threshold | float) -> None:
        if not rules:
            raise UsageError("Min needs at least one rule")
        self.rules = tuple(as_threshold(rule) for rule in rules)

    def limit(self, reading: Reading) -> Float[Tensor, "blocks"] | Float[Tensor, ""]:
        """The smallest limit of each block."""
        limit = self.rules[0].limit(reading)
        for rule in self.rules[1:]:
            limit = torch.minimum(limit, rule.limit(reading))
        return limit

    def observe(self, reading: Reading, clipped: Float[Tensor, "blocks"]) -> None:
        """Show every rule what happened."""
        for rule in self.rules:
            rule.observe(reading, clipped)

    def state_dict(self) -> dict[str, Any]:
        """The memories, in order."""
        return {"rules": [rule.state_dict() for rule in self.rules]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved memories."""
        for rule, saved in zip(self.rules, state["rules"], strict=True):
            rule.load_state_dict(saved)

    def __repr__(self) -> str:
        return f"Min({', '.join(map(repr, self.rules))})"


class Scheduled(Threshold):
    """A limit that follows a function of the step: `Scheduled(schedule("linear", steps=1000), of=1.0)`.

    Args:
        factor: multiplier at the 0-based step. Every call of the clip counts as one, unless the host knows that it was
            skipped.
        of: the rule or number that is multiplied.
    """

    def __init__(self, factor: Callable[[int], float], of: Threshold | float = 1.0) -> None:
        self.factor, self.of, self.step = factor, as_threshold(of), 0

    def limit(self, reading: Reading) -> Float[Tensor, "blocks"] | Float[Tensor, ""]:
        """The other rule's limit times the factor of this step.

        Raises:
            UsageError: the function returned something negative.
        """
        factor = float(self.factor(self.step))
        if not factor >= 0:
            raise UsageError(f"a scheduled clipping limit must be at least 0, step {self.step} gave {factor}")
        return self.of.limit(reading) * factor

    def observe(self, reading: Reading, clipped: Float[Tensor, "blocks"]) -> None:
        """Go on to the next step."""
        self.step += 1
        self.of.observe(reading, clipped)

    def state_dict(self) -> dict[str, Any]:
        """The step, and the other rule's memory."""
        return {"step": self.step, "of": self.of.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over a saved step and memory."""
        self.step = state["step"]
        self.of.load_state_dict(state["of"])
