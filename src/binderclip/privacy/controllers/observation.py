"""What a learned controller may see of training, and how it is standardised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.privacy.accounting.statistic import PrivateBatch, Statistic
from binderclip.privacy.controllers.controller import PublicStats

__all__ = ["Observation", "RunningScale", "clipping_summary", "histogram_statistic", "loss_statistic"]

EDGES = torch.linspace(-3.0, 3.0, 13)
"""Of log(norm / C): bins of half a unit, both ends open; the seventh edge is 0, the border of clipping."""


class RunningScale:
    """Standardises vectors by the mean and deviation of all before and itself; cut off at 5 deviations."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor = torch.zeros(())
        self.square: Tensor = torch.zeros(())

    def __call__(self, values: Float[Tensor, "S"]) -> Float[Tensor, "S"]:
        self.count += 1
        change = values - self.mean
        self.mean = self.mean + change / self.count
        self.square = self.square + change * (values - self.mean)
        deviation = (self.square / max(self.count - 1, 1)).sqrt()
        return ((values - self.mean) / deviation.clamp(min=1e-6)).clamp(-5, 5)

    def state_dict(self) -> dict[str, Any]:
        """Running sums."""
        return {"count": self.count, "mean": self.mean, "square": self.square}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        self.count, self.mean, self.square = state["count"], state["mean"], state["square"]


class Observation:
    """Log norms of the noised updates of each group since the last action.

    Args:
        groups: J.
    """

    def __init__(self, groups: int) -> None:
        self.groups = groups
        self.last_loss = 0.0
        self._logs: list[Tensor] = []

    def add(self, stats: PublicStats, groups: Sequence[int]) -> None:
        """Take the update of the last step; it is noised, so this reveals nothing new."""
        squares = torch.zeros(self.groups)
        for value, group in zip(stats.update, groups, strict=True):
            squares[group] += value.detach().float().square().sum().cpu()
        self._logs.append(0.5 * squares.clamp(min=1e-30).log())

    def update_norms(self) -> tuple[list[float], list[float]]:
        """Mean and deviation of the log norms, for each group; zeros where there was no step."""
        if not self._logs:
            return [0.0] * self.groups, [0.0] * self.groups
        logs = torch.stack(self._logs)
        return logs.mean(dim=0).tolist(), logs.std(dim=0, correction=0).tolist()

    def clear(self) -> None:
        """Forget the norms; the last loss stays."""
        self._logs = []

    def state_dict(self) -> dict[str, Any]:
        """Norms since the last action."""
        return {"logs": list(self._logs), "last_loss": self.last_loss}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put them back."""
        self._logs, self.last_loss = list(state["logs"]), state["last_loss"]


def histogram_statistic(groups: int, multiplier: float) -> Statistic:
    """Counts of log(norm / C) in bins, (J, 14): each sample counts once a group, so the sensitivity is root J."""

    def counts(batch: PrivateBatch) -> Tensor:
        limits = batch.norms.new_tensor(batch.clip_norms)
        logs = torch.nan_to_num((batch.norms / limits).clamp(min=1e-30).log(), nan=0.0)
        bins = torch.bucketize(logs, EDGES.to(logs))
        return torch.stack([torch.bincount(column, minlength=len(EDGES) + 1) for column in bins.T]).float()

    return Statistic("norm histogram", counts, groups**0.5, multiplier, (groups, len(EDGES) + 1))


def loss_statistic(bound: float, multiplier: float) -> Statistic:
    """Sum of the training losses, each cut off at `bound`."""
    return Statistic("loss", lambda b: torch.nan_to_num(b.losses, nan=bound).clamp(0, bound).sum(), bound, multiplier)


def clipping_summary(
    released: Mapping[str, Tensor], groups: int, expected_batch_size: float
) -> tuple[list[float], float]:
    """Per group mean, deviation, quartiles and clipped fraction from noised counts (6J values), and the mean loss."""
    if "norm histogram" not in released:
        return [0.0] * (6 * groups), 0.0
    counts = released["norm histogram"].cpu().double().clamp(min=0)
    fractions = counts / counts.sum(dim=1, keepdim=True).clamp(min=1e-9)
    width = float(EDGES[1] - EDGES[0])
    centres = torch.cat([EDGES[:1] - width / 2, EDGES + width / 2]).double()
    mean = fractions @ centres
    deviation = (fractions @ centres.square() - mean.square()).clamp(min=0).sqrt()
    total = fractions.cumsum(dim=1)
    quartiles = [centres[(total >= q - 1e-9).double().argmax(dim=1)] for q in (0.25, 0.5, 0.75)]
    clipped = fractions[:, (len(EDGES) + 1) // 2 :].sum(dim=1)
    loss = float(released["loss"]) / expected_batch_size
    return torch.cat([mean, deviation, *quartiles, clipped]).tolist(), loss
