"""Batches of the stages that build `small`: each is made from its number alone, so a resumed run goes on exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.train.bundled.data.maps import Maps

__all__ = ["Mixture", "Numbered", "TextWindows", "pad_slots"]

T = TypeVar("T")


class Numbered(Generic[T]):
    """Endless batches `make(0), make(1), ...` with the `seek` that `fit` asks for.

    Args:
        make: batch of a number; must depend on nothing else.
        data_hash: of what the batches are made from, for the checkpoint.
    """

    def __init__(self, make: Callable[[int], T], data_hash: str = "") -> None:
        self.make, self.data_hash, self.position = make, data_hash, 0

    def seek(self, number: int) -> None:
        """Start at batch `number`."""
        self.position = number

    def __iter__(self) -> Iterator[T]:
        while True:
            number, self.position = self.position, self.position + 1
            yield self.make(number)


@dataclass
class TextWindows:
    """Indices of texts by number: drawn by weight, grouped by length inside windows of 16 batches.

    Texts of like length in a batch are cut to their longest, which halves the work.
    """

    lengths: Int[Tensor, "N"]
    weights: Float[Tensor, "N"]
    batch: int
    seed: int

    def __call__(self, number: int) -> Int[Tensor, "B"]:
        window, part = divmod(number, 16)
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + window)
        rows = torch.multinomial(self.weights, 16 * self.batch, replacement=True, generator=generator)
        rows = rows[self.lengths[rows].argsort(stable=True)]
        order = torch.randperm(16, generator=generator)
        first = int(order[part]) * self.batch
        return rows[first : first + self.batch]


def pad_slots(value: Tensor, slots: int, fill: int) -> Tensor:
    """(N, K, ...) -> (N, slots, ...)."""
    return nn.functional.pad(value, (*[0, 0] * (value.ndim - 2), 0, slots - value.shape[1]), value=fill)


@dataclass
class Mixture:
    """Batches of cached views: a fixed number of single objects, scenes, labelled cut-outs and photograph crops.

    Attributes:
        singles: the training pictures once each in every set (on white, and augmented); one of them is drawn a time.
        scenes, cutouts, crops: further maps; None where there are none.
        share: how the batch is divided between the four.
        batch: pictures a batch. seed: of the draws. slots: objects a view may have.
    """

    singles: Sequence[Maps]
    scenes: Maps | None
    cutouts: Maps | None
    crops: Maps | None
    batch: int
    seed: int
    share: tuple[float, float, float, float] = (0.52, 0.27, 0.105, 0.105)
    slots: int = 6

    @property
    def counts(self) -> tuple[int, int, int, int]:
        """Pictures of each sort in a batch."""
        here = [True, self.scenes is not None, self.cutouts is not None, self.crops is not None]
        counts = [
            round(self.batch * fraction) if there else 0 for fraction, there in zip(self.share, here, strict=True)
        ]
        counts[0] = self.batch - sum(counts[1:])
        return counts[0], counts[1], counts[2], counts[3]

    def __call__(self, number: int) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        parts: list[tuple[Maps, Tensor]] = []
        singles, *others = self.counts
        which = torch.randint(len(self.singles), (singles,), generator=generator)
        for index, maps in enumerate(self.singles):
            count = int((which == index).sum())
            parts.append((maps, torch.randint(len(maps), (count,), generator=generator)))
        crops = torch.zeros(0, dtype=torch.long)
        for maps_, count in zip((self.scenes, self.cutouts, self.crops), others, strict=True):
            if maps_ is not None:
                crops = torch.randint(len(maps_), (count,), generator=generator)
                parts.append((maps_, crops))
        return {
            "lower": torch.cat([maps.lower[rows] for maps, rows in parts]),
            "texts": torch.cat([pad_slots(maps.texts[rows].long(), self.slots, -1) for maps, rows in parts]),
            "masks": torch.cat([pad_slots(maps.masks[rows], self.slots, 0) for maps, rows in parts]).float() / 255,
            "crops": crops if self.crops is not None else crops[:0],
        }
