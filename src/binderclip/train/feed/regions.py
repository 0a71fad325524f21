"""Regions of label maps with the names of their classes, the whole picture in view, as training batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.data.synthetic_scenes.captions import article, listed
from binderclip.data.uniform import uniform
from binderclip.errors import DataError
from binderclip.train.distributed import World
from binderclip.train.feed.batches import Order

__all__ = ["RegionBatch", "RegionBatches", "is_region"]


def is_region(name: str) -> bool:
    """Whether a class is something in a picture: all but the one called background."""
    return name.lower() != "background"


@dataclass(frozen=True)
class RegionBatch:
    """Pictures in [0, 1], 1 on the meant region and 0 elsewhere, and which text says what is there."""

    images: Float[Tensor, "B 3 S S"]
    alpha: Float[Tensor, "B 1 S S"]
    texts: Int[Tensor, "B"]


class RegionBatches:
    """One region a picture and pass, drawn by a hash of (seed, picture, pass); some pictures whole.

    Args:
        images: of the set.
        labels: index into the classes at each pixel, -1 for none.
        classes: their names; one called background is no region.
        batch_size: over all processes.
        full: probability of a whole picture, whose text lists its classes.
        seed: of order and draws.
        template: sentence around what is there.
        world: takes this process's part of each batch.

    Raises:
        DataError: no picture has a labelled region.
        UsageError: a batch larger than the set.
    """

    def __init__(
        self, images: Float[Tensor, "N 3 S S"], labels: Int[Tensor, "N S S"], classes: Sequence[str], *,
        batch_size: int, full: float = 0.1, seed: int = 0, template: str = "a picture of {}",
        world: World | None = None,
    ) -> None:  # fmt: skip
        usable = [index for index, name in enumerate(classes) if is_region(name)]
        shown = [(labels == index).flatten(1).any(1) for index in usable]
        present: Bool[Tensor, "N C"] = torch.stack(shown, 1) if shown else labels.new_empty(len(labels), 0).bool()
        kept = present.any(1)
        if not bool(kept.any()):
            raise DataError("alpha-clip: no picture has a region of a class other than background")
        self.images, self.labels, self.full, self.seed = images[kept], labels[kept], full, seed
        self.regions = [[usable[place] for place in row.nonzero().flatten().tolist()] for row in present[kept]]
        named = {index: template.format(article(classes[index])) for index in usable}
        whole = [template.format(listed([classes[index] for index in row])) for row in self.regions]
        self.texts = list(dict.fromkeys([*named.values(), *whole]))
        place = {text: number for number, text in enumerate(self.texts)}
        self.of_class = {index: place[text] for index, text in named.items()}
        self.of_picture = [place[text] for text in whole]
        self.order = Order([len(self.images)], [1.0], batch_size, seed)
        self.world, self.position = world or World(), 0

    def seek(self, number: int) -> None:
        """Start at batch `number`."""
        self.position = number

    def __iter__(self) -> Iterator[RegionBatch]:
        """Without an end."""
        while True:
            epoch, rows = self.order[self.position]
            self.position += 1
            yield self.make(rows[self.world.share(len(rows))], epoch)

    def make(self, rows: Int[Tensor, "B"], epoch: int) -> RegionBatch:
        """The regions of some pictures in one pass."""
        draws = uniform(self.seed, [f"region/{row}" for row in rows.tolist()], epoch, 2)  # (B, 2)
        alpha, texts = torch.ones(len(rows), 1, *self.images.shape[2:]), []
        for number, (row, (whole, which)) in enumerate(zip(rows.tolist(), draws, strict=True)):
            regions = self.regions[row]
            if whole < self.full:
                texts.append(self.of_picture[row])
                continue
            chosen = regions[min(int(which * len(regions)), len(regions) - 1)]
            alpha[number, 0] = (self.labels[row] == chosen).float()
            texts.append(self.of_class[chosen])
        device = self.world.device
        return RegionBatch(self.images[rows].to(device), alpha.to(device), torch.tensor(texts, device=device))
