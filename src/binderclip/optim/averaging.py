"""Averages of the weights along a run."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["ModelEMA", "scaled_ema_decay"]


class ModelEMA(AveragedModel):
    """Exponential moving average of a module's weights: `w <- d w + (1 - d) w_now` after every step.

    torch's `AveragedModel` with two differences: the average starts at the weights it is made from, not at those after
    the first step, and its decay may rise from small values, so that a short run is not stuck at its start. Buffers are
    copied. Pass it to `fit(ema=...)`, or call `update_parameters(module)` after each step.

    Args:
        module: to follow; copied.
        decay: d, in [0, 1).
        warmup: after t updates d is at most `(1 + t) / (10 + t)`.

    Raises:
        UsageError: decay outside [0, 1).

    Paper: CLIP Itself is a Strong Fine-tuner (arXiv 2212.06138) uses 0.9998 over 31,000 steps.
    """

    def __init__(self, module: nn.Module, decay: float = 0.9998, *, warmup: bool = False) -> None:
        if not 0 <= decay < 1:
            raise UsageError(f"decay must lie in [0, 1), such as 0.9998, got {decay}")
        super().__init__(module, multi_avg_fn=self._average)
        self.decay, self.warmup = decay, warmup
        # Counting the copy as the first keeps torch from overwriting it at the first update.
        self.n_averaged.fill_(1)

    def decay_at(self, updates: int) -> float:
        """The decay in force when so many updates were done before."""
        return min(self.decay, (1 + updates) / (10 + updates)) if self.warmup else self.decay

    @torch.no_grad()
    def _average(self, averaged: Any, current: Any, count: Tensor | int) -> None:
        torch._foreach_lerp_(list(averaged), list(current), 1 - self.decay_at(int(count) - 1))


def scaled_ema_decay(steps: int, *, decay: float = 0.9998, reference: int = 31_250) -> float:
    """Decay that forgets over the same share of a shorter run: `1 - (1 - decay) reference / steps`, in [0.9, 0.999].

    Args:
        steps: of the run.
        decay: of the reference run.
        reference: its steps; the default is 50 epochs of ImageNet in batches of 2,048.

    Raises:
        UsageError: no steps.
    """
    check_number("steps", steps, least=1)
    return float(min(0.999, max(0.9, 1 - (1 - decay) * reference / steps)))
