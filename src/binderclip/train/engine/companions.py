"""What is carried along beside the model that is trained."""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor, nn

from binderclip.errors import UsageError

__all__ = ["MomentumCopy", "cosine_momentum"]


def cosine_momentum(step: int, steps: int, start: float) -> float:
    """A momentum that rises from `start` to 1 along a cosine.

    Args:
        step: from 0.
        steps: of the whole training.
        start: in [0, 1].
    """
    return 1 - (1 - start) * (1 + math.cos(math.pi * min(step, steps) / steps)) / 2


class MomentumCopy(nn.Module):
    """A copy of a module that follows it: p' = m p + (1 - m) q, without gradients.

    Args:
        module: what is followed; not a part of the copy.
        start: momentum m of the first step, in [0, 1]; it rises to 1 along a cosine.
        steps: calls of `follow` in the whole training.

    Raises:
        UsageError: a momentum out of range.
    """

    step: Tensor

    def __init__(self, module: nn.Module, *, start: float, steps: int) -> None:
        super().__init__()
        if not 0 <= start <= 1:
            raise UsageError(f"momentum {start} lies in [0, 1]")
        self.copied = copy.deepcopy(module).requires_grad_(False)
        self.start, self.steps = start, max(1, steps)
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def follow(self, module: nn.Module) -> None:
        """One step towards `module`; buffers (running statistics) are those of the copy's own forward passes."""
        momentum = cosine_momentum(int(self.step), self.steps, self.start)
        for mine, other in zip(self.copied.parameters(), module.parameters(), strict=True):
            mine.lerp_(other.detach().to(mine), 1 - momentum)
        self.step += 1
