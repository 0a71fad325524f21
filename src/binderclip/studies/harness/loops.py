"""Loops that studies repeat: a seeded training of a classifier on tensors, and its accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.fit import fit

Augment = Callable[[Tensor, list[str], int], Tensor]
"""From (pictures, their keys, the pass) to pictures; its chance comes from the keys and the pass."""


class _Shuffled:
    """Batches of one pass after the other, in an order that depends on the seed and the pass."""

    def __init__(self, rows: Tensor, batch: int, seed: int, make: Callable[[Tensor, int], Any]) -> None:
        self.rows, self.batch, self.seed, self.make, self.epoch = rows, batch, seed, make, 0

    def __iter__(self) -> Iterator[Any]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        generator = torch.Generator().manual_seed(self.seed * 1000 + epoch)
        order = self.rows[torch.randperm(len(self.rows), generator=generator)]
        for chosen in order[: len(order) // self.batch * self.batch].split(self.batch):
            yield self.make(chosen, epoch)


def train_classifier(
    make: Callable[[], nn.Module],
    images: Float[Tensor, "N ..."],
    labels: Int[Tensor, "N"],
    seed: int,
    *,
    rows: Int[Tensor, "n"] | None = None,
    epochs: int,
    batch: int = 64,
    augment: Augment | None = None,
    **options: Any,
) -> nn.Module:
    """Train a new network by cross-entropy and return it in evaluation mode.

    Start, order and augmentation come from the seed; every method of a study that is given the same seed sees the same.

    Args:
        make: builds the network, called under `torch.manual_seed(seed)`.
        images: all of them.
        labels: classes from 0.
        seed: of everything.
        rows: those to train on; default all.
        epochs: passes; a last part of a batch is left out.
        batch: pictures a step.
        augment: of a batch.
        options: of `fit`, such as `optimizer`, `lr` and `clip`.

    Raises:
        UsageError: fewer pictures than a batch.
    """
    rows = torch.arange(len(images)) if rows is None else rows
    if len(rows) < batch:
        raise UsageError(f"{len(rows)} pictures are fewer than a batch of {batch}")
    torch.manual_seed(seed)
    net = make()

    def made(chosen: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        views = images[chosen]
        if augment is not None:
            views = augment(views, [str(row) for row in chosen.tolist()], epoch)
        return views, labels[chosen]

    fit(
        lambda drawn: F.cross_entropy(net(drawn[0]), drawn[1]),
        net,
        _Shuffled(rows, batch, seed, made),
        steps=epochs * (len(rows) // batch),
        **options,
    )
    return net.eval()


@torch.no_grad()
def accuracy(net: nn.Module, images: Float[Tensor, "N ..."], labels: Int[Tensor, "N"], batch: int = 500) -> float:
    """Share of the pictures whose largest output is their class."""
    right = [(net(x).argmax(1) == y).float() for x, y in zip(images.split(batch), labels.split(batch), strict=True)]
    return float(torch.cat(right).mean())
