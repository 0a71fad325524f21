"""MaxEMA: a moving average of a tensor's largest entries, Stable-SPAM's guard against spikes in single ones."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.numeric import check_number
from binderclip.optim.clip.threshold import Memory, Reading, Threshold

__all__ = ["MaxEMA", "start_correction"]


def start_correction(decay: float, count: Float[Tensor, "blocks"]) -> Float[Tensor, "blocks"]:
    """1 - decay^count, what a moving average that began at zero is divided by; exact also for a decay close to 1."""
    return torch.ones_like(count) if decay == 0 else -torch.expm1(count * math.log(decay))


class MaxEMA(Threshold):
    """A limit at the bias-corrected moving average of the block's statistic, the current one, unclipped, included.

    Made for `Clip(MaxEMA(), granularity="tensor", statistic="max", action="rescale")`, where the statistic is the
    largest absolute entry. At the first step the limit is the statistic itself.

    Args:
        theta: decay of the average, in [0, 1).

    Raises:
        UsageError: a decay outside its range.

    Paper: Stable-SPAM: How to Train in 4-Bit More Stably than 16-Bit Adam (AdaClip).
    """

    def __init__(self, theta: float = 0.999) -> None:
        check_number("theta", theta, least=0, below=1)
        self.theta = theta
        self.average, self.count = Memory(), Memory(dtype=torch.int64)

    def _moved(self, reading: Reading) -> tuple[Tensor, Tensor]:
        average = self.theta * self.average.read(reading) + (1 - self.theta) * reading.stat
        return average, self.count.read(reading) + 1

    def limit(self, reading: Reading) -> Float[Tensor, "blocks"]:
        """The average after this step, corrected for its start at zero."""
        average, count = self._moved(reading)
        # at least the statistic's own rounding, so that the first step limits nothing
        corrected = average / start_correction(self.theta, count.to(average.dtype))
        return torch.where(count == 1, reading.stat, corrected.to(reading.stat.dtype))

    def observe(self, reading: Reading, clipped: Float[Tensor, "blocks"]) -> None:
        """Move the average by the statistic before clipping."""
        average, count = self._moved(reading)
        self.average.write(reading, average)
        self.count.write(reading, count)

    def state_dict(self) -> dict[str, Any]:
        """Averages and counts."""
        return {"average": self.average.state_dict(), "count": self.count.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over saved averages."""
        self.average.load_state_dict(state["average"])
        self.count.load_state_dict(state["count"])

    def __repr__(self) -> str:
        return f"MaxEMA({self.theta:g})"
