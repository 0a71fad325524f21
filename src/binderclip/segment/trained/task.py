"""What training a head needs, for `fit` and for a stage of a recipe alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from binderclip.fit import FitResult, fit
from binderclip.models.layers.freezing import frozen

__all__ = ["HeadTask", "RowBatches", "run_task"]


class RowBatches:
    """Rows of a table drawn with replacement, each batch with its number; the same after `seek` as without.

    Args:
        count: rows of the table.
        batch: rows a batch.
        seed: of the draw.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        self.count, self.batch, self.seed, self.first = count, batch, seed, 0

    def seek(self, batches: int) -> None:
        """Begin after so many batches."""
        self.first = batches

    def __iter__(self) -> Iterator[tuple[int, Int[Tensor, "B"]]]:
        """Without an end."""
        generator, place = torch.Generator().manual_seed(self.seed), 0
        while True:
            rows = torch.randint(self.count, (self.batch,), generator=generator)
            if place >= self.first:
                yield place, rows
            place += 1


@dataclass(frozen=True)
class HeadTask:
    """A head and its loss.

    Attributes:
        head: what is trained and saved.
        step: (number of the batch, its rows) -> (loss, figures); with `backward` where it runs that itself, see `fit`.
        batches: of a table.
        groups: parameters that learn, `lr_scale` where they learn slower.
        frozen: modules that stay as they are meanwhile.
    """

    head: nn.Module
    step: Callable[..., tuple[Tensor, dict[str, Tensor]]]
    batches: RowBatches
    groups: list[dict[str, Any]]
    frozen: tuple[nn.Module, ...] = ()


def run_task(
    task: HeadTask,
    *,
    steps: int,
    lr: float,
    weight_decay: float,
    schedule: str | Callable[[float], float],
    clip: float | None = None,
) -> FitResult:
    """Train by AdamW; the head is in eval mode afterwards.

    Args:
        task: of a head.
        steps, lr, weight_decay, schedule, clip: as `fit` takes them.
    """
    optimizer = {"name": "adamw", "weight_decay": weight_decay}
    with frozen(*task.frozen):
        task.head.train()
        result = fit(
            task.step, task.groups, task.batches, steps=steps, lr=lr, optimizer=optimizer, schedule=schedule,
            clip=clip, module=task.head,
        )  # fmt: skip
    task.head.eval()
    return result
