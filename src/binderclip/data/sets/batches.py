"""Batches of a data set for a loop of one's own: order by (seed, epoch), skipped pictures entered where they belong."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
from jaxtyping import Int
from torch.utils.data import DataLoader

from binderclip.data.sets.dataset import ImageTextDataset, Mode
from binderclip.data.sets.sample import Batch, Collate, Fit
from binderclip.data.sets.shards import ShardDataset
from binderclip.errors import UsageError
from binderclip.numeric import check_number


def epoch_order(n: int, *, seed: int = 0, epoch: int = 0, rank: int = 0, world: int = 1) -> Int[np.ndarray, "M"]:
    """The order of one pass: a permutation of range(n) by (seed, epoch), every `world`-th of it from `rank` on.

    Processes together see every index once; their shares differ by one at most.
    """
    if not 0 <= rank < world:
        raise UsageError(f"rank {rank} of {world} processes")
    return np.random.default_rng([seed, epoch]).permutation(n)[rank::world]


def batches(
    dataset: ImageTextDataset | ShardDataset,
    batch_size: int,
    *,
    size: int | None = None,
    mode: Mode = "RGB",
    fit: Fit = "crop",
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    workers: int = 0,
    start: int = 0,
) -> Iterator[Batch]:
    """One pass over a data set; what could not be read is entered in `dataset.skipped` and missing from its batch.

    Args:
        dataset: map-style, or shards (which shuffle and deal out by their own settings).
        batch_size: samples a batch; unreadable ones make it smaller.
        size: side of the uint8 tensors in `Batch.images`; None gives PIL pictures.
        mode, fit: see `Collate`.
        shuffle, seed, epoch: random order, a function of (seed, epoch); `epoch` also chooses that of shards.
        rank, world: which part of how many this process takes.
        drop_last: leave out a last batch that is not full.
        workers: decoding processes; the result does not depend on it (for shards the order does).
        start: batches to leave out at the beginning, to resume; costs no decoding except for shards.
    """
    check_number("batch_size", batch_size, least=1)
    collate = Collate(size, mode=mode, fit=fit, background=dataset.background)
    if isinstance(dataset, ShardDataset):
        dataset.set_epoch(epoch)
        loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=collate, drop_last=drop_last)
        stream: Iterator[Batch] = islice(iter(loader), start, None)
    else:
        order = epoch_order(len(dataset), seed=seed, epoch=epoch, rank=rank, world=world)
        order = order if shuffle else np.arange(len(dataset))[rank::world]
        last = len(order) - (len(order) % batch_size if drop_last else 0)
        rows = [order[i : min(i + batch_size, last)].tolist() for i in range(start * batch_size, last, batch_size)]
        stream = iter(DataLoader(dataset, batch_sampler=rows, num_workers=workers, collate_fn=collate))
    for batch in stream:
        for key, reason in batch.skipped:
            dataset.skip(key, reason)
        if len(batch):
            yield batch
