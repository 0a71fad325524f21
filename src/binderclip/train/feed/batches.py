"""Batches in an order that is known beforehand, made ready in the background.

Which pictures batch number n holds is a function of (seed, n): nothing needs to be remembered to go on after a kill,
and every process of a distributed run knows the whole plan and takes its part.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models import TokenIds
from binderclip.train.distributed import World
from binderclip.train.feed.pictures import Pictures, Pixels

__all__ = ["Batches", "FurtherTexts", "Order", "Prepare", "Shorten", "TrainingBatch", "prefetch"]

T = TypeVar("T")
Shorten = Callable[[TokenIds, Sequence[str], int], TokenIds]
"""Cuts the captions of a batch: (tokens, keys, epoch) -> tokens."""
FurtherTexts = Callable[[Sequence[str], Sequence[str], int], Sequence[TokenIds]]
"""Further texts of the pictures of a batch, made of their captions: (captions, keys, epoch) -> tokens of each kind."""


@dataclass(frozen=True)
class TrainingBatch:
    """One training batch on its device.

    Args:
        images: (B, 3, H, W) normalised pixels.
        tokens: captions as token ids; of several captions the one drawn for this pass.
        rows: (B,) which pictures of the set they are.
        caption_ids: (B,) equal where captions are equal (case apart).
        columns: further tensors a stage asked for, one row a picture (teacher features, ...).
        keys: of the pictures.
        epoch: pass over the data.
        texts: further texts of the pictures, where a stage asked for them, each as tokens of B rows.
    """

    images: Float[Tensor, "B 3 H W"]
    tokens: TokenIds
    rows: Int[Tensor, "B"]
    caption_ids: Int[Tensor, "B"]
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    keys: Sequence[str] = ()
    epoch: int = 0
    texts: Sequence[TokenIds] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def to(self, device: torch.device) -> TrainingBatch:
        """The same on another device, without waiting for it."""
        if device.type == "cpu":
            return self
        images, rows, ids = (t.to(device, non_blocking=True) for t in (self.images, self.rows, self.caption_ids))
        columns = {name: tensor.to(device, non_blocking=True) for name, tensor in self.columns.items()}
        texts = [each.to(device) for each in self.texts]
        return replace(
            self, images=images, tokens=self.tokens.to(device), rows=rows, caption_ids=ids, columns=columns, texts=texts
        )


class Order:
    """Which rows batch number n holds.

    An epoch is a random permutation in which each row of a set of weight w occurs w times; of a fractional part a
    random share of the rows does. Batches do not cross epochs; what is left over at the end of one is not used in it.

    Args:
        sizes: rows of each set.
        weights: weight of each set.
        batch_size: rows a batch.
        seed: of the permutations.

    Raises:
        UsageError: a batch larger than an epoch.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], batch_size: int, seed: int) -> None:
        self.sizes, self.weights, self.batch_size, self.seed = list(sizes), list(weights), batch_size, seed
        self.epoch_size = sum(
            int(weight) * size + round((weight - int(weight)) * size)
            for size, weight in zip(sizes, weights, strict=True)
        )
        self.batches_per_epoch = self.epoch_size // batch_size
        if not self.batches_per_epoch:
            raise UsageError(
                f"batch_size {batch_size} is more than the {self.epoch_size} pictures of one pass; "
                f"use {self.epoch_size} or fewer"
            )
        self._kept: tuple[int, Tensor] = (-1, torch.empty(0))

    def __getitem__(self, number: int) -> tuple[int, Int[Tensor, "B"]]:
        """(epoch, rows) of the batch."""
        epoch, index = divmod(number, self.batches_per_epoch)
        if self._kept[0] != epoch:
            self._kept = (epoch, self._permutation(epoch))
        return epoch, self._kept[1][index * self.batch_size : (index + 1) * self.batch_size]

    def _permutation(self, epoch: int) -> Int[Tensor, "N"]:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % (1 << 63))
        parts, start = [], 0
        for size, weight in zip(self.sizes, self.weights, strict=True):
            rows = torch.arange(start, start + size)
            whole = int(weight)
            parts += [rows] * whole
            extra = round((weight - whole) * size)
            if extra:
                parts.append(rows[torch.randperm(size, generator=generator)[:extra]])
            start += size
        every = torch.cat(parts)
        return every[torch.randperm(len(every), generator=generator)]


class Batches:
    """Endless training batches of a stage; `fit` draws from it, and `seek` makes a resumed run go on exactly.

    Args:
        pictures: where they come from.
        order: which rows each batch holds.
        prepare: raw pixels -> input of the model, on its device (see `Prepare`).
        tokens: tokens of `pictures.texts`, every caption of every picture.
        shorten: cuts the tokens of a batch where each pass cuts them differently.
        world: takes this process's part of each batch.
        columns: further tensors with one row a picture.
        texts: makes further texts of each batch.
        ahead: batches made in advance in a background thread; 0 makes each when it is asked for.
    """

    def __init__(
        self,
        pictures: Pictures,
        order: Order,
        *,
        prepare: Callable[[Pixels], Float[Tensor, "B 3 H W"]],
        tokens: TokenIds,
        shorten: Shorten | None = None,
        world: World | None = None,
        columns: Mapping[str, Tensor] | None = None,
        texts: FurtherTexts | None = None,
        ahead: int = 2,
    ) -> None:
        self.pictures, self.order, self.world = pictures, order, world or World()
        self.prepare, self.tokens, self.shorten, self.texts = prepare, tokens, shorten, texts
        self.columns, self.ahead = dict(columns or {}), ahead
        self.position = 0

    def seek(self, number: int) -> None:
        """Start at batch `number`."""
        self.position = number

    def __len__(self) -> int:
        return self.order.batches_per_epoch

    def __iter__(self) -> Iterator[TrainingBatch]:
        """One epoch, or what is left of it; the next call goes on with the next."""
        left = len(self) - self.position % len(self)
        first, self.position = self.position, self.position + left
        device = self.world.device

        def plan() -> Iterator[tuple[int, Tensor]]:
            for number in range(first, first + left):
                epoch, rows = self.order[number]
                yield epoch, rows[self.world.share(len(rows))]

        made = map(self.make, self.pictures.read(plan()))
        for batch in prefetch(made, self.ahead):
            yield batch.to(device)

    @torch.no_grad()
    def make(self, pixels: Pixels) -> TrainingBatch:
        """One batch, ready for the model."""
        images = self.prepare(pixels)
        columns = {name: tensor[pixels.rows] for name, tensor in self.columns.items()}
        texts = self.pictures.text_rows(pixels.rows, pixels.epoch, self.order.seed)
        tokens = self.tokens[texts]
        if self.shorten is not None:
            tokens = self.shorten(tokens, pixels.keys, pixels.epoch)
        further: Sequence[TokenIds] = ()
        if self.texts is not None:
            captions = [self.pictures.texts[number] for number in texts.tolist()]
            further = self.texts(captions, pixels.keys, pixels.epoch)
        ids = self.pictures.caption_ids[texts]
        return TrainingBatch(images, tokens, pixels.rows, ids, columns, pixels.keys, pixels.epoch, further)


@dataclass(frozen=True)
class Prepare:
    """Raw pictures -> model input: moved as bytes, then augmented and normalised on the device.

    Args:
        augment: raw pixels -> float (B, 3, H, W) in [0, 1].
        mean, std: of each channel, on the [0, 1] scale.
        device: of the model.
        channels_last: memory format of the result.
    """

    augment: Callable[[Pixels], Float[Tensor, "B 3 H W"]]
    mean: Sequence[float]
    std: Sequence[float]
    device: torch.device
    channels_last: bool = False

    def __call__(self, pixels: Pixels) -> Float[Tensor, "B 3 H W"]:
        if self.device.type != "cpu":
            pixels = replace(pixels, images=pixels.images.to(self.device, non_blocking=True))
        images = self.augment(pixels)
        mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.std))
        images = images.sub_(mean).div_(std)
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images


class _End(Generic[T]):
    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


def prefetch(items: Iterator[T], ahead: int) -> Iterator[T]:
    """The same items in the same order, up to `ahead` of them made beforehand by a thread.

    The thread ends with the generator; an error in it is raised here.
    """
    if ahead < 1:
        yield from items
        return
    ready: queue.Queue[Any] = queue.Queue(maxsize=ahead)
    stop = threading.Event()

    def put(value: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put(value, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(_End())
        except BaseException as error:
            put(_End(error))

    thread = threading.Thread(target=work, name="binderclip-batches", daemon=True)
    thread.start()
    try:
        while True:
            value = ready.get()
            if isinstance(value, _End):
                if value.error is not None:
                    raise value.error
                return
            yield value
    finally:
        stop.set()
        thread.join()
