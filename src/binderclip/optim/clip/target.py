"""What a clip may ask of the optimizer whose step it precedes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer


class StepTarget:
    """An optimizer that is about to step, and what it can do for a clip.

    A fused optimizer divides by `grad_scale` and leaves everything untouched if `found_inf` is set, without the host
    knowing; so a common factor need not be multiplied into the gradients, and a bad step need not be read back.

    Args:
        optimizer: the optimizer.
        whole: whether the clip sees every gradient of the optimizer, all of them unsharded.
    """

    def __init__(self, optimizer: Optimizer, *, whole: bool) -> None:
        self.optimizer = optimizer
        self.takes_flag = bool(getattr(optimizer, "_step_supports_amp_scaling", False))
        # a GradScaler sets both attributes around the step; nothing of ours is set at this moment
        self.by_scaler = self.takes_flag and getattr(optimizer, "found_inf", None) is not None
        self.folds = self.takes_flag and whole

    @property
    def scale(self) -> Tensor | None:
        """What the optimizer will divide the gradients by."""
        return getattr(self.optimizer, "grad_scale", None) if self.takes_flag else None

    def fold(self, factor: Tensor) -> None:
        """Let the optimizer multiply the gradients by a 0-dim factor."""
        current = self.scale
        factor = factor.to(torch.float32)
        self.optimizer.grad_scale = 1 / factor if current is None else current / factor.to(current.device)  # type: ignore[attr-defined]

    def flag(self, bad: Tensor) -> None:
        """Let the optimizer skip its step where a 0-dim boolean is true."""
        current = getattr(self.optimizer, "found_inf", None)
        value = bad.to(torch.float32)
        self.optimizer.found_inf = value if current is None else torch.maximum(current, value.to(current.device))  # type: ignore[attr-defined]
