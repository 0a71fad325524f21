"""`ImageTextDataset`: captioned pictures that are opened when they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import Dataset

from binderclip.data.cache.features import content_hash
from binderclip.data.images import WHITE, composite, open_image
from binderclip.data.sets.sample import Fit, Sample, Skipped, captions_of, fit_square
from binderclip.errors import DataError, UsageError
from binderclip.settings import check_choice

Mode = Literal["RGB", "RGBA"]


class ImageTextDataset(Dataset[Sample]):
    """Pictures with captions, labels and attributes, held as columns; a picture is decoded when it is indexed.

    A picture that cannot be read is skipped, counted and named, whenever that is found out. `dataset[i]` raises the
    `DataError`; everything that reads many (iteration, `batches`, a `DataLoader` with `collate`, `pixels`) goes on
    without it and enters it in `skipped`. Worker processes pass a `Skipped` marker through `collate` to the `Batch`,
    and `batches` enters it here, in the main process.

    Args:
        images: one entry a picture, whatever `open_image` takes: paths, encoded bytes, arrays.
        captions: one caption a picture; "" where there is none.
        keys: one unique name a picture.
        labels: (N,) integers into `classes`, -1 for none; None: no labels at all.
        classes: names of the labels.
        attributes: further columns of length N; None entries are left out of `Sample.attributes`.
        source: name of the set, or one for each picture.
        skipped: (key, reason) of what was already found unusable.
        mode: "RGB" (transparency composited on `background`) or "RGBA".
        background: 0..255; part of what a picture is, so part of `data_hash`.
        size_hint: lets large JPEGs be decoded at reduced size (see `open_image`).
    """

    def __init__(
        self,
        images: Sequence[Any] | np.ndarray,
        captions: Sequence[str],
        keys: Sequence[str],
        *,
        labels: Sequence[int] | np.ndarray | None = None,
        classes: Sequence[str] = (),
        attributes: Mapping[str, Sequence[Any]] | None = None,
        source: str | Sequence[str] = "",
        skipped: Iterable[tuple[str, str]] = (),
        mode: Mode = "RGB",
        background: tuple[int, int, int] = WHITE,
        size_hint: int | None = None,
    ) -> None:
        n = len(keys)
        self.captions: list[str] = list(captions)
        self.keys: list[str] = list(keys)
        self.labels: Int[np.ndarray, "N"] = (
            np.full(n, -1, np.int64) if labels is None else np.asarray(labels, dtype=np.int64)
        )
        self.classes: tuple[str, ...] = tuple(classes)
        self.attributes: dict[str, list[Any]] = {name: list(column) for name, column in (attributes or {}).items()}
        self.sources: list[str] = [source] * n if isinstance(source, str) else list(source)
        self.skipped: list[tuple[str, str]] = list(skipped)
        self.mode, self.background, self.size_hint = mode, background, size_hint
        self._images: Any = images
        self._rows = np.arange(n)
        self._parent: ImageTextDataset | None = None
        self._known = {key for key, _ in self.skipped}
        self._check(len(images))

    def _check(self, images: int) -> None:
        columns = {"images": images, "captions": len(self.captions), "labels": len(self.labels)}
        columns |= {"source": len(self.sources), **{name: len(c) for name, c in self.attributes.items()}}
        wrong = {name: length for name, length in columns.items() if length != len(self.keys)}
        if wrong:
            raise UsageError(f"columns of unequal length: keys has {len(self.keys)}, but {wrong}")
        if len(set(self.keys)) != len(self.keys):
            twice = [key for key, count in Counter(self.keys).items() if count > 1]
            raise UsageError(f"{len(twice)} keys occur more than once, the first is {twice[0]!r}")
        low, high = (int(self.labels.min()), int(self.labels.max())) if len(self.labels) else (-1, -1)
        if low < -1 or high >= len(self.classes):
            raise UsageError(f"labels run from {low} to {high}, but there are {len(self.classes)} classes (-1: none)")
        check_choice("mode", self.mode, ("RGB", "RGBA"))

    # --- reading ------------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> ImageTextDataset: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self.subset(range(*index.indices(len(self))))
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        row = int(index) % len(self)
        try:
            image = open_image(self._images[int(self._rows[row])], mode="auto", size_hint=self.size_hint)
        except DataError as error:
            raise DataError(_naming(self.keys[row], error)) from error
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        if alpha is not None and alpha.getextrema() == (255, 255):
            alpha = None
        label = int(self.labels[row])
        return Sample(
            image=composite(image, self.background) if self.mode == "RGB" else image.convert("RGBA"),
            caption=self.captions[row],
            key=self.keys[row],
            alpha=alpha,
            label=None if label < 0 else label,
            attributes={name: column[row] for name, column in self.attributes.items() if column[row] is not None},
            source=self.sources[row],
        )

    def __getitems__(self, indices: Sequence[int]) -> list[Sample | Skipped]:
        """What a `DataLoader` fetches for one batch: an unreadable picture becomes a `Skipped`, not an exception."""
        return [self._attempt(index) for index in indices]

    def _attempt(self, index: int) -> Sample | Skipped:
        try:
            return self[index]
        except DataError as error:
            return Skipped(self.keys[index], str(error))

    def __iter__(self) -> Iterator[Sample]:
        for index in range(len(self)):
            item = self._attempt(index)
            if isinstance(item, Skipped):
                self.skip(item.key, item.reason)
            else:
                yield item

    def skip(self, key: str, reason: str) -> None:
        """Enter a picture in `skipped`, once, here and in the set that this one is a subset of."""
        if key not in self._known:
            self._known.add(key)
            self.skipped.append((key, reason))
        if self._parent is not None:
            self._parent.skip(key, reason)

    def report(self, limit: int = 10) -> str:
        """How many pictures there are and which were skipped and why, for people; at most `limit` are named."""
        unread = len(self._known & set(self.keys))
        lines = [f"{len(self) - unread} pictures, {len(self.skipped)} skipped"]
        lines += [f"  {key}: {_without(key, reason)}" for key, reason in self.skipped[:limit]]
        if len(self.skipped) > limit:
            lines.append(f"  and {len(self.skipped) - limit} more")
        return "\n".join(lines)

    # --- views --------------------------------------------------------------------------------------------------------

    def subset(self, indices: Iterable[int] | np.ndarray | Tensor) -> ImageTextDataset:
        """The samples at `indices` (or where a boolean mask is true), sharing the pictures; classes stay the same."""
        positions = np.asarray(indices if isinstance(indices, (np.ndarray, Tensor)) else list(indices))
        if positions.dtype == bool:
            if positions.shape != (len(self),):
                raise UsageError(f"a mask of shape {positions.shape} does not select from {len(self)} samples")
            positions = np.flatnonzero(positions)
        positions = positions.astype(np.int64)
        if positions.size and not -len(self) <= positions.min() <= positions.max() < len(self):
            raise UsageError(
                f"subset indices run from {positions.min()} to {positions.max()}, but there are {len(self)} samples"
            )
        positions = positions % max(len(self), 1)
        view = ImageTextDataset.__new__(ImageTextDataset)
        view.captions = [self.captions[i] for i in positions]
        view.keys = [self.keys[i] for i in positions]
        view.sources = [self.sources[i] for i in positions]
        view.attributes = {name: [column[i] for i in positions] for name, column in self.attributes.items()}
        view.labels, view.classes = self.labels[positions], self.classes
        view.mode, view.background, view.size_hint = self.mode, self.background, self.size_hint
        view._images, view._rows, view._parent = self._images, self._rows[positions], self
        view.skipped, view._known = [], set()
        return view

    def where(self, **conditions: Any) -> ImageTextDataset:
        """The samples whose attributes match: `where(split="test", style={"twemoji", "noto-v1"}, mono=None)`.

        A condition is a value, a set, list or tuple of values, or a predicate; "source", "label" (a class name),
        "caption" and "key" count as attributes.
        """
        keep = np.ones(len(self), bool)
        for name, condition in conditions.items():
            keep &= np.array([matches(value, condition) for value in self.column(name)], bool)
        return self.subset(keep)

    def column(self, name: str) -> list[Any]:
        """One attribute of every sample (None where it has none); "source", "label", "caption" and "key" too."""
        if name in self.attributes:
            return self.attributes[name]
        if name == "label":
            return [self.classes[label] if label >= 0 else None for label in self.labels]
        columns: dict[str, list[Any]] = {"source": self.sources, "caption": self.captions, "key": self.keys}
        if name not in columns:
            have = ", ".join(sorted([*self.attributes, *columns, "label"]))
            raise UsageError(f"no attribute {name!r}; there are {have}")
        return columns[name]

    @property
    def all_captions(self) -> list[list[str]]:
        """Every caption of every picture: the attribute `captions` where there are several, else the one."""
        several = self.attributes.get("captions", [None] * len(self))
        return [captions_of(caption, more) for caption, more in zip(self.captions, several, strict=True)]

    # --- identity -----------------------------------------------------------------------------------------------------

    def content_hash(self, index: int) -> str:
        """32 hex digits that say what picture this is: `FeatureCache`'s hash of the file's bytes or array."""
        image = self._images[int(self._rows[index])]
        return content_hash(image if isinstance(image, (bytes, str, Path)) else np.array(image))

    def state(self, index: int) -> str:
        """A text that changes when the picture does: size and time of its file, or what it holds where it is in memory.

        Raises:
            DataError: its file is not there.
        """
        image = self._images[int(self._rows[index])]
        if not isinstance(image, (str, Path)):
            return self.content_hash(index)
        try:
            status = Path(image).stat()
        except OSError as error:
            raise DataError(f"{image}: {error.strerror or error}") from error
        return f"{image} {status.st_size} {status.st_mtime_ns}"

    def encoded(self, index: int) -> bytes | None:
        """The picture's file as it is, or None where it is held as an array."""
        image = self._images[int(self._rows[index])]
        if isinstance(image, (str, Path)):
            return Path(image).read_bytes()
        return image if isinstance(image, bytes) else None

    @cached_property
    def data_hash(self) -> str:
        """16 hex digits over every key, its captions, label and picture, in order; reads every file once."""
        digest = hashlib.blake2b(digest_size=8)
        digest.update(repr((self.mode, self.background, self.classes)).encode())
        for row, (key, several, label) in enumerate(zip(self.keys, self.all_captions, self.labels, strict=True)):
            caption = several[0] if len(several) == 1 else several
            try:
                content = self.content_hash(row)
            except DataError:
                content = "unreadable"  # the reason may name this machine's paths, which are not the data
            digest.update(repr((key, caption, int(label), content)).encode())
        return digest.hexdigest()

    # --- all pictures at once -----------------------------------------------------------------------------------------

    def pixels(
        self, size: int, *, mode: Mode = "RGBA", fit: Fit = "pad", threads: int | None = None
    ) -> tuple[UInt8[Tensor, "N C S S"], ImageTextDataset]:
        """Decode every picture once: a uint8 array to train from, and the set of those that could be read.

        5,800 pack pictures at 64 px are 95 MB of RGBA and take 2 to 3 seconds; `Augment` reads the array directly.

        Args:
            size: side in pixels.
            mode: "RGBA" keeps transparency for random backgrounds; "RGB" composites on `background`.
            fit: "pad", "crop" or "squash", see `Collate`.
            threads: decoding threads; default the number of processors.
        """
        out = torch.empty((len(self), size, size, len(mode)), dtype=torch.uint8)
        array, good = out.numpy(), np.ones(len(self), bool)
        source = self if self.mode == mode else self.with_mode(mode)

        def read(row: int) -> None:
            item = source._attempt(row)
            if isinstance(item, Skipped):
                good[row] = False
                self.skip(item.key, item.reason)
            else:
                array[row] = np.asarray(fit_square(item.image, size, mode=mode, fit=fit, background=self.background))

        with ThreadPoolExecutor(threads or os.cpu_count() or 1) as pool:
            for _ in pool.map(read, range(len(self))):
                pass
        kept = out if good.all() else out[torch.from_numpy(good)]
        return kept.permute(0, 3, 1, 2).contiguous(), self if good.all() else self.subset(good)

    def with_mode(self, mode: Mode, background: tuple[int, int, int] | None = None) -> ImageTextDataset:
        """The same samples with pictures as "RGB" on `background` (default: the same as here) or as "RGBA"."""
        view = self.subset(range(len(self)))
        view.mode, view.background = mode, self.background if background is None else background
        return view


def join(datasets: Sequence[ImageTextDataset]) -> ImageTextDataset:
    """One set out of several: classes are united by name, missing attributes are None, `source` says where from.

    Keys that occur twice get their set's name in front. Pictures are read in the mode and on the background of the
    first set; what a set had skipped is listed under the same names.
    """
    if not datasets:
        raise UsageError("join needs at least one data set")
    if len(datasets) == 1:
        return datasets[0]
    first = datasets[0]
    classes = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.classes))
    position = {name: index for index, name in enumerate(classes)}
    labels = []
    for dataset in datasets:
        table = np.array([*(position[name] for name in dataset.classes), -1], np.int64)  # label -1 reads the last
        labels.append(table[dataset.labels])
    counts = Counter(key for dataset in datasets for key in dataset.keys)
    keys = [
        key if counts[key] == 1 else f"{source or number}/{key}"
        for number, dataset in enumerate(datasets)
        for key, source in zip(dataset.keys, dataset.sources, strict=True)
    ]
    names = dict.fromkeys(name for dataset in datasets for name in dataset.attributes)
    empty: dict[int, list[None]] = {id(dataset): [None] * len(dataset) for dataset in datasets}
    return ImageTextDataset(
        _Joined([(dataset._images, dataset._rows) for dataset in datasets]),
        [caption for dataset in datasets for caption in dataset.captions],
        keys,
        labels=np.concatenate(labels),
        classes=classes,
        attributes={n: [v for d in datasets for v in d.attributes.get(n, empty[id(d)])] for n in names},
        source=[source for dataset in datasets for source in dataset.sources],
        skipped=[entry for dataset in datasets for entry in dataset.skipped],
        mode=first.mode,
        background=first.background,
        size_hint=first.size_hint,
    )


class _Joined(Sequence[Any]):
    """The pictures of several sets one after the other, without copying any."""

    def __init__(self, parts: Sequence[tuple[Sequence[Any], np.ndarray]]) -> None:
        self._parts = parts
        self._ends = np.cumsum([len(rows) for _, rows in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: Any) -> Any:
        part = int(np.searchsorted(self._ends, index, side="right"))
        images, rows = self._parts[part]
        return images[int(rows[index - (self._ends[part - 1] if part else 0)])]


def matches(value: Any, condition: Any) -> bool:
    """Whether an attribute meets a condition: a predicate, a set, list or tuple of values, or a value."""
    if callable(condition):
        return bool(condition(value))
    if isinstance(condition, (set, frozenset, list, tuple)):
        return value in condition
    return bool(value == condition)


def _naming(key: str, error: DataError) -> str:
    """The reason under the sample's key, without naming the file twice."""
    text = str(error)
    place, _, reason = text.partition(": ")
    if place.endswith(key):
        return text
    return f"{key}: {reason}" if place.endswith(" bytes") or place == "array" else f"{key}: {text}"


def _without(key: str, reason: str) -> str:
    place, colon, rest = reason.partition(": ")
    return rest if colon and place.endswith(key) else reason
