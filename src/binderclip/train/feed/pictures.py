"""The training pictures of a stage: in memory where they fit, streamed where they do not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from binderclip.data import Augment, Collate, ImageTextDataset, load_data
from binderclip.data.sets.sample import draw_captions
from binderclip.errors import DataError, UsageError
from binderclip.settings import check_part
from binderclip.train.recipe.recipe import DataSpec
from binderclip.train.recipe.registry import SOURCES

__all__ = ["FIT", "Pictures", "Pixels", "open_sources", "side_by_side"]

# How a picture that is not square becomes so, by the model's own way of resizing.
FIT: dict[str, Literal["pad", "crop", "squash"]] = {"longest": "pad", "shortest": "crop", "squash": "squash"}
_PROBE = 32


def open_sources(specs: Sequence[DataSpec]) -> tuple[list[Any], list[float]]:
    """Open the data sets of a recipe; with each its weight.

    Raises:
        UsageError: an unknown name or split.
        DataError: nothing usable in it.
    """
    sets, weights = [], []
    for spec in specs:
        if spec.name in SOURCES:
            check_part({"name": spec.name, **spec.options}, SOURCES, "data", given=1)
            dataset = SOURCES[spec.name](spec, **spec.options)
        elif spec.options:
            raise UsageError(f"data {spec.name!r} takes no options, got {', '.join(spec.options)}")
        else:
            dataset = _open_named(spec)
        if spec.limit is not None and isinstance(dataset, ImageTextDataset):
            dataset = dataset.subset(range(min(spec.limit, len(dataset))))
        if isinstance(dataset, ImageTextDataset) and not len(dataset):
            raise DataError(f"data {spec.name!r}, split {spec.split!r}: there is no picture in it")
        sets.append(dataset)
        weights.append(spec.weight)
    return sets, weights


def _open_named(spec: DataSpec) -> Any:
    """What `load_data` opens. A folder's own splits are used where it has the one; without, it is taken whole."""
    from binderclip.data import list_data
    from binderclip.data.sets.folder import take_split

    named = {part.strip() for part in spec.name.split(",")} <= set(list_data())
    by_name = named or ("split" in spec.model_fields_set and spec.split not in ("train", "val"))
    dataset = load_data(spec.name, spec.split if by_name else None, mode="RGBA", allow_pipe=spec._allow_pipe)
    if by_name:
        return dataset
    if isinstance(dataset, ImageTextDataset) and spec.split in dataset.attributes.get("split", []):
        return dataset if spec.split is None else take_split(dataset, spec.split, spec.name)
    return _held_out(dataset, spec) if spec.hold_out else dataset


def _held_out(dataset: Any, spec: DataSpec) -> ImageTextDataset:
    """The pictures that are held out for `val`, or the others; equal pictures are on the same side.

    Raises:
        UsageError: shards, which are streamed, or a side without pictures.
    """
    if not isinstance(dataset, ImageTextDataset):
        raise UsageError(f"data {spec.name!r}: hold_out chooses pictures, and shards are a stream: name other shards")
    val = spec.split == "val"
    # The smallest hashes, so that the share is met as closely as a number of pictures can.
    order = sorted(range(len(dataset)), key=lambda row: (dataset.content_hash(row), row))
    count = max(1, round(spec.hold_out * len(dataset)))
    while 0 < count < len(order) and _same(dataset, order[count - 1], order[count]):
        count += 1
    kept = sorted(order[:count] if val else order[count:])
    if not kept:
        raise UsageError(
            f"data {spec.name!r}: {len(dataset)} pictures are too few to hold out {spec.hold_out:g} of them"
        )
    return dataset.subset(kept)


def _same(dataset: ImageTextDataset, first: int, second: int) -> bool:
    return dataset.content_hash(first) == dataset.content_hash(second)


@dataclass(frozen=True)
class Pixels:
    """Raw pictures of a batch before augmentation.

    Args:
        images: uint8 (B, 4, S, S) with straight alpha.
        rows: (B,) which pictures of the set they are.
        captions, keys: of them.
        epoch: pass over the data, for the augmentation's hash.
    """

    images: UInt8[Tensor, "B 4 S S"]
    rows: Int[Tensor, "B"]
    captions: list[str]
    keys: list[str]
    epoch: int


def side_by_side(pixels: Pixels, views: Iterable[tuple[Tensor, Augment]]) -> Float[Tensor, "B 3 S W"]:
    """Several views of each picture as one picture that is as many times as wide; `chunk(n, dim=3)` has them again.

    Args:
        pixels: of the batch.
        views: what is augmented, uint8 or float (B, 3 or 4, H, W), and how; each view has draws of its own.
    """
    made = [
        augment(images, [f"{key}/{number}" for key in pixels.keys], pixels.epoch)
        for number, (images, augment) in enumerate(views)
    ]
    return torch.cat(made, dim=3)


class Pictures:
    """Several sets as one table of pictures.

    A picture with several captions is shown with one of them in each pass, drawn by a hash of (seed, key, epoch).

    Args:
        sets: map-style data sets.
        weights: how often each is drawn, one for each set.
        size: side the pictures are trained at; stored smaller where the originals are smaller.
        fit: "pad", "crop" or "squash".
        memory: bytes that decoded pictures may take; beyond it they are decoded by `workers` processes again in each
            pass.
        workers: processes for streaming.
    """

    def __init__(
        self,
        sets: Sequence[ImageTextDataset],
        weights: Sequence[float],
        *,
        size: int,
        fit: Literal["pad", "crop", "squash"] = "pad",
        memory: int = 2 << 30,
        workers: int = 1,
    ) -> None:
        from binderclip.data import join

        self.fit, self.workers, self.size = fit, workers, size
        side = min(size, _largest_side(sets))
        self.cached = sum(map(len, sets)) * 4 * side * side <= memory
        self.images: Tensor | None = None
        self._hashes = [dataset.data_hash for dataset in sets]
        if self.cached:
            decoded = [dataset.pixels(side, mode="RGBA", fit=fit) for dataset in sets]
            self.images = torch.cat([images for images, _ in decoded]) if len(decoded) > 1 else decoded[0][0]
            # What could not be read is left out, and named by the sets.
            self._originals, sets = list(sets), [kept for _, kept in decoded]
        else:
            self._originals, side = list(sets), size
        self.side = side
        self.sizes, self.weights = [len(dataset) for dataset in sets], list(weights)
        self.dataset = join(sets)
        if not len(self.dataset):
            raise DataError(f"no readable picture in the training data; skipped: {self.skipped[:3]}")
        self.captions, self.keys = self.dataset.captions, self.dataset.keys
        self.several = self.dataset.all_captions
        self.texts = [text for texts in self.several for text in texts]
        self._first = torch.tensor([0, *(len(texts) for texts in self.several[:-1])]).cumsum(0)
        self.draw = len(self.texts) > len(self.several)
        numbers: dict[str, int] = {}
        self.caption_ids = torch.tensor([numbers.setdefault(c.casefold(), len(numbers)) for c in self.texts])

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of every picture that could not be read."""
        seen = {key: reason for dataset in (*self._originals, getattr(self, "dataset", None)) if dataset is not None
                for key, reason in dataset.skipped}  # fmt: skip
        return list(seen.items())

    @property
    def data_hash(self) -> str:
        """16 hex digits over keys, captions, pictures and weights."""
        return hashlib.blake2b(repr((self._hashes, self.weights)).encode(), digest_size=8).hexdigest()

    def text_rows(self, rows: Int[Tensor, "B"], epoch: int, seed: int) -> Int[Tensor, "B"]:
        """Which of `texts` goes with each picture in one pass: its caption, or the one drawn of several.

        Args:
            rows: of the pictures.
            epoch, seed: of the draw, see `binderclip.data.sets.sample.draw_captions`; where `draw` is False it is the
                first.
        """
        if not self.draw:
            return self._first[rows]
        chosen = rows.tolist()
        several, keys = [self.several[i] for i in chosen], [self.keys[i] for i in chosen]
        return self._first[rows] + torch.tensor(draw_captions(several, keys, seed=seed, epoch=epoch))

    def read(self, plan: Iterator[tuple[int, Int[Tensor, "B"]]]) -> Iterator[Pixels]:
        """The pictures of a plan of (epoch, rows), in its order."""
        if self.images is None:
            yield from self._stream(list(plan))
            return
        for epoch, rows in plan:
            yield self._pixels(self.images[rows], rows, epoch)

    def _pixels(self, images: Tensor, rows: Tensor, epoch: int) -> Pixels:
        chosen = rows.tolist()
        return Pixels(images, rows, [self.captions[i] for i in chosen], [self.keys[i] for i in chosen], epoch)

    def _stream(self, plan: list[tuple[int, Tensor]]) -> Iterator[Pixels]:
        position = {key: row for row, key in enumerate(self.keys)}
        loader = DataLoader(
            self.dataset,
            batch_sampler=[rows.tolist() for _, rows in plan],
            collate_fn=Collate(self.side, mode="RGBA", fit=self.fit),  # type: ignore[arg-type]
            num_workers=self.workers,
            # A worker must not draw from the generator whose state the checkpoint keeps.
            generator=torch.Generator().manual_seed(0),
            prefetch_factor=2 if self.workers else None,
        )
        for (epoch, _), batch in zip(plan, loader, strict=True):
            for key, reason in batch.skipped:
                self.dataset.skip(key, reason)
            if len(batch):
                yield self._pixels(batch.images, torch.tensor([position[key] for key in batch.keys]), epoch)


def _largest_side(sets: Sequence[ImageTextDataset]) -> int:
    """Longest side among a few pictures, spread over the sets."""
    sides = [1]
    for dataset in sets:
        for index in np.linspace(0, len(dataset) - 1, min(_PROBE, len(dataset))).astype(int):
            try:
                sides.append(max(dataset[int(index)].image.size))
            except DataError:
                continue
    return max(sides)
