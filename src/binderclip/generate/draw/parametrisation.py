"""A picture as a function of parameters, and the plainest one: its pixels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.draw.gradients import clamp_with_grad

__all__ = ["Parametrisation", "PixelImage"]


class Parametrisation(nn.Module, ABC):
    """A differentiable map from parameters to pictures, with its own learning rates and its own constraints.

    Subclasses write `forward`, `groups` and, where parameters have a range, `project_`.
    """

    @abstractmethod
    def forward(self) -> Float[Tensor, "B 3 H W"]:
        """The pictures, in [0, 1]."""

    @abstractmethod
    def groups(self) -> list[dict[str, Any]]:
        """Parameter groups as optimizers take them, each with its `lr`.

        A group's `schedule`, a function of the part of the run that is done, in [0, 1), multiplies its rate.
        """

    @torch.no_grad()
    def project_(self) -> None:
        """Put the parameters back into their range; called after every step. Here they have none."""


class PixelImage(Parametrisation):
    """A picture given by its pixels, clamped to [0, 1]; the gradient of a pixel outside passes where it leads back.

    Args:
        initial: pixels in [0, 1] to start with, one picture or more.
        lr: of the pixels.

    Raises:
        UsageError: pixels that are not finite or not in [0, 1].

    Examples:
        >>> PixelImage(torch.rand(3, 8, 8))().shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(self, initial: Float[Tensor, "3 H W"] | Float[Tensor, "B 3 H W"], lr: float = 0.05) -> None:
        super().__init__()
        if initial.ndim not in (3, 4) or initial.shape[-3] != 3 or not initial.numel():
            raise UsageError(f"initial must be pictures (3, H, W) or (B, 3, H, W), got {tuple(initial.shape)}")
        if not bool(((initial >= 0) & (initial <= 1)).all()):
            raise UsageError("initial must lie in [0, 1] and be finite")
        pixels = initial if initial.ndim == 4 else initial[None]
        self.pixels = nn.Parameter(pixels.detach().clone())
        self.lr = lr

    def forward(self) -> Float[Tensor, "B 3 H W"]:
        """The pixels, clamped."""
        return clamp_with_grad(self.pixels, 0.0, 1.0)

    def groups(self) -> list[dict[str, Any]]:
        """One group."""
        return [{"params": [self.pixels], "lr": self.lr}]
