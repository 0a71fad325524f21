"""What may leave a private batch besides the gradient: sums over samples, released with noise and an account entry."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["PrivateBatch", "Statistic"]


@dataclass(frozen=True)
class PrivateBatch:
    """Raw quantities of one (micro-)batch, which only a `Statistic`'s function ever sees.

    Attributes:
        norms: per-sample gradient norms, one column a group, (B, J).
        scales: the clip's factors, (B, J).
        clip_norms: the J norms they come from.
        losses: per-sample losses, (B,).
        weighted_sum: weights (B,) or (B, J) -> sum over samples of weight times gradient, one tensor a parameter.
    """

    norms: Float[Tensor, "B J"]
    scales: Float[Tensor, "B J"]
    clip_norms: tuple[float, ...]
    losses: Float[Tensor, "B"]
    weighted_sum: Callable[[Tensor], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Statistic:
    """A sum over the samples of a batch that somebody wants released.

    It comes from the same Poisson sample as the gradient, so both are one Gaussian mechanism, of multiplier
    (z_gradient^-2 + z_statistic^-2)^(-1/2), and that is what the ledger gets.

    Attributes:
        name: under which the noised value appears in `PublicStats.released`.
        value: batch -> sum over its samples, any shape; micro-batches are added, and an empty batch is never asked.
        sensitivity: largest L2 change of the sum when one sample is added or removed.
        multiplier: standard deviation of the noise over the sensitivity, above 0.
        shape: of the value; what an empty batch gives is zeros of it.

    Raises:
        UsageError: a sensitivity or multiplier that is not positive and finite.
    """

    name: str
    value: Callable[[PrivateBatch], Tensor]
    sensitivity: float
    multiplier: float
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not (self.sensitivity > 0 and math.isfinite(self.sensitivity)):
            raise UsageError(f"statistic {self.name!r}: sensitivity must be above 0 and finite, got {self.sensitivity}")
        if not (self.multiplier > 0 and math.isfinite(self.multiplier)):
            raise UsageError(f"statistic {self.name!r}: multiplier must be above 0 and finite, got {self.multiplier}")
