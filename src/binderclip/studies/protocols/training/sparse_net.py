"""What the studies of training-time sparsity share: a perceptron on small pictures of clothing, and its batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import lru_cache

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.studies.protocols.data.clothing import clothing, standardised

SIDE, POOL, TEST = 14, 8000, 2000
"""Pixels a side; pictures that training sets are drawn from; test pictures."""
WIDTH, HIDDEN, CLASSES = 128, 4, 10


@lru_cache(maxsize=2)
def pictures(split: str) -> tuple[Float[Tensor, "N D"], Int[Tensor, "N"]]:
    """Standardised pixels as rows, and classes, of the pool of training pictures or of the test pictures."""
    images, labels = clothing(split, POOL if split == "train" else TEST, SIDE)
    return standardised(images).flatten(1), labels


def perceptron(seed: int, width: int = WIDTH, hidden: int = HIDDEN) -> nn.Sequential:
    """Linear layers with ReLU between: `hidden` layers of `width`, and the classes."""
    torch.manual_seed(seed)
    sizes = [SIDE * SIDE, *[width] * hidden]
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, CLASSES))


def training_rows(seed: int, count: int) -> Int[Tensor, "n"]:
    """Rows of the pool that a seed trains on."""
    return torch.randperm(POOL, generator=torch.Generator().manual_seed(seed))[:count]


class PoolBatches:
    """Endless passes over rows of the pool, in an order that depends on the seed and the pass alone."""

    def __init__(self, rows: Int[Tensor, "n"], batch: int, seed: int) -> None:
        self.rows, self.batch, self.generator = rows, batch, torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        images, labels = pictures("train")
        order = self.rows[torch.randperm(len(self.rows), generator=self.generator)]
        for chosen in order[: len(order) // self.batch * self.batch].split(self.batch):
            yield images[chosen], labels[chosen]


@torch.no_grad()
def accuracy_on_test(net: nn.Module) -> float:
    """Share of the test pictures whose largest output is their class."""
    images, labels = pictures("test")
    return float((net.eval()(images).argmax(1) == labels).float().mean())
