"""What a denoiser is to everything that runs one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.generate.denoisers.schedule import NoiseSchedule

__all__ = ["Denoiser"]


class Denoiser(nn.Module, ABC):
    """Predicts the noise in a picture, of a condition: a class, a prompt, or None.

    A condition is any value that can be a dictionary's key and that the denoiser knows. One call serves several
    conditions: the rows come in as many blocks of equal length as there are conditions.

    Args:
        schedule: what the times mean; default Stable Diffusion's, `NoiseSchedule.scaled_linear()`.
    """

    def __init__(self, schedule: NoiseSchedule | None = None) -> None:
        super().__init__()
        self.schedule = NoiseSchedule.scaled_linear() if schedule is None else schedule

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "R *shape"], t: Int[Tensor, " R"], conditions: Sequence[Hashable] = (None,)
    ) -> Float[Tensor, "R *shape"]:
        """The noise eps in x.

        Args:
            x: noisy pictures x_t, blocks of equal length.
            t: the time of each.
            conditions: of each block.
        """

    def predict(
        self, x: Float[Tensor, "B *shape"], t: int | Int[Tensor, " B"], conditions: Sequence[Hashable]
    ) -> list[Float[Tensor, "B *shape"]]:
        """The noise in x under several conditions, by one batched forward.

        Args:
            x: noisy pictures.
            t: their time, or one for each.
            conditions: one at least.
        """
        if not conditions:
            raise UsageError("conditions is empty: give at least one, or (None,)")
        times = torch.full((len(x),), t, device=x.device) if isinstance(t, int) else t
        count = len(conditions)
        repeated = x if count == 1 else x.repeat(count, *[1] * (x.ndim - 1))
        return list(self(repeated, times.repeat(count), conditions).chunk(count))
