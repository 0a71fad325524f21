"""Training batches from WebDataset shards, which are read once a pass and never known as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from binderclip.data import Collate
from binderclip.data.sets.sample import Batch as RawBatch
from binderclip.data.sets.sample import captions_of, draw_captions
from binderclip.data.sets.shards import ShardDataset
from binderclip.errors import DataError
from binderclip.losses.contrastive.targets import key_ids
from binderclip.models import TokenIds
from binderclip.train.distributed import World
from binderclip.train.feed.batches import FurtherTexts, Shorten, TrainingBatch, prefetch
from binderclip.train.feed.pictures import Pixels

__all__ = ["ShardBatches"]

SHUFFLE = 1000


class ShardBatches:
    """Endless batches of a shard data set.

    The order is a function of seed, epoch, workers and processes, so a resumed run draws the raw batches that were
    used already, without making them ready, and goes on exactly. A picture with several captions is shown with one of
    them in each pass, drawn by a hash of (seed, key, epoch).

    Args:
        dataset: the shards.
        batch_size: pictures a batch of this process.
        prepare: raw pixels -> model input.
        tokenize: captions -> tokens.
        shorten: cuts the tokens of a batch where each pass cuts them differently.
        texts: makes further texts of each batch.
        size, fit: side of the raw pictures, and how they become square.
        workers: processes that read and decode.
        world: of this process.
    """

    def __init__(
        self,
        dataset: ShardDataset,
        *,
        batch_size: int,
        prepare: Callable[[Pixels], Float[Tensor, "B 3 S S"]],
        tokenize: Callable[[list[str]], TokenIds],
        shorten: Shorten | None = None,
        texts: FurtherTexts | None = None,
        size: int,
        fit: str,
        workers: int,
        world: World,
    ) -> None:
        self.dataset, self.batch_size, self.prepare, self.tokenize = dataset, batch_size, prepare, tokenize
        self.shorten, self.texts = shorten, texts
        self.size, self.fit, self.workers, self.world = size, fit, workers, world
        self.epoch = self.to_drop = self.drawn = 0
        dataset.shuffle, dataset.captions = SHUFFLE, "needed"

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of what could not be read so far."""
        return self.dataset.skipped

    @property
    def data_hash(self) -> str:
        """16 hex digits over the shards' names, the sizes beside them and what decides their order."""
        content = (self.dataset.urls, self.dataset.count, self.workers, self.world.size)
        return hashlib.blake2b(repr(content).encode(), digest_size=8).hexdigest()

    def seek(self, number: int) -> None:
        """Start at batch `number`."""
        self.epoch, self.drawn, self.to_drop = 0, 0, number

    def __iter__(self) -> Iterator[TrainingBatch]:
        """One pass over the shards, or what is left of it; the next call makes the next pass."""
        given = False
        while not given:  # a pass whose batches were all used before a resume gives none
            before = self.drawn
            self.dataset.set_epoch(self.epoch)
            self.epoch += 1
            made = map(self._make, self._raw(self.epoch - 1))
            for batch in prefetch(made, 2 if self.workers else 0):
                given = True
                yield batch.to(self.world.device)
            if self.drawn == before:
                for _ in self.dataset:
                    # Batches that were not full took their reasons with them; the little there is is read once more.
                    pass
                raise DataError(
                    f"the shards hold no whole batch of {self.batch_size} pictures: {self.dataset.report()}"
                )

    def _raw(self, epoch: int) -> Iterator[tuple[int, RawBatch]]:
        loader = DataLoader(
            self.dataset,
            batch_size=self.batch_size,
            collate_fn=Collate(self.size, mode="RGBA", fit=self.fit),  # type: ignore[arg-type]
            num_workers=self.workers,
            drop_last=True,
            # Workers are seeded from here, not from the generator whose state the checkpoint keeps.
            generator=torch.Generator().manual_seed(epoch),
        )
        for batch in loader:
            for key, reason in batch.skipped:
                self.dataset.skip(key, reason)
            if not len(batch):
                continue
            self.drawn += 1
            if self.drawn > self.to_drop:
                yield epoch, batch

    @torch.no_grad()
    def _make(self, item: tuple[int, RawBatch]) -> TrainingBatch:
        epoch, raw = item
        rows = torch.full((len(raw),), -1)
        several = [captions_of(c, a.get("captions")) for c, a in zip(raw.captions, raw.attributes, strict=True)]
        drawn = draw_captions(several, raw.keys, seed=self.dataset.seed, epoch=epoch)
        captions = [texts[number] for texts, number in zip(several, drawn, strict=True)]
        images = self.prepare(Pixels(raw.images, rows, captions, raw.keys, epoch))  # type: ignore[arg-type]
        ids = key_ids([caption.casefold() for caption in captions], torch.device("cpu"))
        tokens = self.tokenize(captions)
        if self.shorten is not None:
            tokens = self.shorten(tokens, raw.keys, epoch)
        further = () if self.texts is None else self.texts(captions, raw.keys, epoch)
        return TrainingBatch(images, tokens, rows, ids, keys=raw.keys, epoch=epoch, texts=further)
