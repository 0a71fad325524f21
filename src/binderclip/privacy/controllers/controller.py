"""Who chooses clip norms and noise during training, from what is public."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from binderclip.privacy.accounting.ledger import Ledger
from binderclip.privacy.accounting.statistic import Statistic

__all__ = ["Controller", "Fixed", "PublicStats", "Setting"]


@dataclass(frozen=True)
class Setting:
    """What a controller decides for the next step; None keeps what is.

    Attributes:
        clip_norms: C_j of each group of the rule.
        noise_multiplier: sigma.
        stop: the budget is used up; a further step raises `BudgetSpent`.
    """

    clip_norms: tuple[float, ...] | None = None
    noise_multiplier: float | None = None
    stop: bool = False


@dataclass(frozen=True)
class PublicStats:
    """Everything a controller may look at: nothing here reveals more than the ledger says.

    Attributes:
        step: steps done.
        clip_norms, noise_multiplier: in force.
        sample_rate, expected_batch_size: of the Poisson batches.
        ledger: what was spent; copy it to project.
        update: the last noised mean gradient, one tensor a parameter, as the inner optimizer got it (feedback
            included); empty before the first step.
        names: of the parameters, in the same order.
        released: noised statistics of the last step, by name. With `account_for_statistics=False` they are raw.
    """

    step: int
    clip_norms: tuple[float, ...]
    noise_multiplier: float
    sample_rate: float
    expected_batch_size: float
    ledger: Ledger
    update: tuple[Tensor, ...] = ()
    names: tuple[str, ...] = ()
    released: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def update_norm(self) -> float:
        """L2 norm of `update`; 0 before the first step."""
        return math.sqrt(sum(float(torch.linalg.vector_norm(value)) ** 2 for value in self.update))


class Controller:
    """Chooses the setting of each step; it never sees a raw gradient, norm or loss.

    A subclass overrides `before_step`. What it needs from private data it names in `statistics`; the optimizer
    computes the sums, adds their noise, enters them into the ledger and hands the noised values over at the next step.

    Attributes:
        account_for_statistics: False releases the statistics as they are, as papers do that overlook the leak. The
            optimizer then warns, and the report says that epsilon does not cover them.
    """

    account_for_statistics: bool = True

    def statistics(self, stats: PublicStats) -> tuple[Statistic, ...]:
        """What is wanted from the coming batch; asked after `before_step`, with the setting then in force."""
        return ()

    def before_step(self, stats: PublicStats) -> Setting:
        """The setting of the coming step."""
        return Setting()

    def state_dict(self) -> dict[str, Any]:
        """Whatever `before_step` remembers, as tensors and plain values."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""


class Fixed(Controller):
    """The same setting at every step.

    Args:
        clip_norms, noise_multiplier: None keeps the optimizer's own.
    """

    def __init__(self, clip_norms: tuple[float, ...] | None = None, noise_multiplier: float | None = None) -> None:
        self.setting = Setting(clip_norms, noise_multiplier)

    def before_step(self, stats: PublicStats) -> Setting:
        """The setting."""
        return self.setting
