"""Rows of a training set in random order."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from binderclip.errors import UsageError


class ShuffledRows:
    """Batches of rows, in a new order every pass; what is left of a pass waits for a later one.

    Args:
        count: rows in all.
        batch: rows a batch; all of them where there are fewer.
        seed: of the order.

    Raises:
        UsageError: no row, or a batch below 1.
    """

    def __init__(self, count: int, batch: int, seed: int) -> None:
        if count < 1 or batch < 1:
            raise UsageError(f"batch_size and the number of pictures must be at least 1, got {batch} and {count}")
        self.count, self.batch, self.seed, self.epoch = count, min(batch, count), seed, 0

    def __iter__(self) -> Iterator[Int[Tensor, "b"]]:
        order = torch.randperm(self.count, generator=torch.Generator().manual_seed(self.seed * 100_003 + self.epoch))
        self.epoch += 1
        yield from (part for part in order.split(self.batch) if len(part) == self.batch)
