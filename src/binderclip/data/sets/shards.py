"""WebDataset shards: tar files of pictures and captions, streamed from disk or from anywhere `webdataset` can open.

A damaged or truncated shard costs what lies behind the damage and nothing else, and is named in `skipped`. Python's
`tarfile` takes a shard that was cut between or inside headers for a complete one; here the end mark must be there.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from binderclip.data.files import not_unicode, printable, read_file
from binderclip.data.formats.addresses import Urls, expand_braces, is_local, local_path, open_local, refuse_pipes
from binderclip.data.formats.tables import CAPTION_COLUMNS, first_column, read_captions, read_json
from binderclip.data.images import IMAGE_SUFFIXES, WHITE, composite, open_image
from binderclip.data.sets.dataset import Mode
from binderclip.data.sets.sample import Sample, Skipped
from binderclip.data.storage import is_object, open_object, refused
from binderclip.errors import DataError, UsageError, require

PICTURE_PARTS = ("image", "img", "picture", "photo")
TEXT_PARTS = ("caption", "captions", "text")
OTHER_PICTURES = ("mask", "masks", "seg", "segmentation", "depth", "alpha", "label", "edges", "normal", "normals")
"""Pictures beside the picture of a sample, which are never taken for it."""
Captions: TypeAlias = Literal["auto", "needed"] | None
SIZES = "sizes.json"
"""File beside local shards, shard name -> number of samples; `write_shards` writes it, open_clip reads it too."""


class ShardDataset(IterableDataset[Sample]):
    """Streams the samples of tar shards; the parts of a sample are `key.jpg`, `key.txt`, `key.json`, ... in a row.

    The caption is `.txt` or `.caption`, or `caption` or `text` of `.json`; the label is `.cls`, or `label` of `.json`;
    everything else in `.json` becomes attributes. Parts may have names, `key.image.png` with `key.caption.txt`. Several
    lines of text, or a list in `.json`, are several captions: the first is `caption`, the attribute `captions` lists
    all. Nothing else is read, and nothing is ever unpickled.

    The order is a function of (seed, epoch) for a given number of processes and workers. Whole shards are dealt to
    processes and, within one, to workers; where there are fewer shards than takers, all read every shard and take turns
    at its samples. Iterated directly, unreadable samples are entered in `skipped`; a worker passes them on as `Skipped`
    through `collate` to `Batch.skipped`, and `batches` enters them here.

    Args:
        urls: one text with brace ranges (`data-{000..009}.tar`), or several; a `Path` is taken as it is; or
            objects (`s3://bucket/data-{000..009}.tar`, see `data.storage`) or addresses that webdataset opens
            (`https:`, `gs:`, `hf:`, ...). `pipe:COMMAND` is refused, see `allow_pipe`.
        shuffle: samples in the buffer that is drawn from; 0 keeps the order of shards and samples.
        seed: of the shuffling.
        rank, world: which process of how many; default those of torch.distributed, else of torchrun's environment.
        mode: "RGB" or "RGBA".
        background: colour under transparent parts, 0..255.
        classes: names of the labels, if known.
        captions: "auto" takes what has a caption or a label; "needed" only what has a caption; None takes pictures
            alone, whatever is beside them. What is left out is named in `skipped`.
        allow_pipe: whether `pipe:COMMAND` among the addresses may run that command in a shell; only for addresses that
            you wrote yourself.

    Raises:
        UsageError: `pipe:` without `allow_pipe`; nothing has run then.
        DataError: no shard is there (local ones are looked for at once).
        MissingDependency: the package webdataset is not installed.
    """

    def __init__(
        self,
        urls: Urls,
        *,
        shuffle: int = 0,
        seed: int = 0,
        rank: int | None = None,
        world: int | None = None,
        mode: Mode = "RGB",
        background: tuple[int, int, int] = WHITE,
        classes: Sequence[str] = (),
        captions: Captions = "auto",
        allow_pipe: bool = False,
    ) -> None:
        self.urls, self.captions = expand_braces(urls), captions
        if not allow_pipe:
            refuse_pipes(self.urls)
        self.shuffle, self.seed, self.epoch = shuffle, seed, 0
        self.mode, self.background, self.classes = mode, background, tuple(classes)
        default = _place()
        self.rank, self.world = default[0] if rank is None else rank, default[1] if world is None else world
        if not 0 <= self.rank < self.world:
            raise UsageError(f"rank {self.rank} of {self.world} processes")
        self.skipped: list[tuple[str, str]] = []
        self._known: set[str] = set()
        absent = [url for url in self.urls if is_local(url) and not os.path.exists(local_path(url))]
        if len(absent) == len(self.urls):
            more = f", nor any of {len(absent) - 1} more" if absent[1:] else ""
            raise DataError(f"{absent[0]}: no such shard{more}")

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next pass; call it before the pass, on every process."""
        self.epoch = epoch

    @property
    def count(self) -> int | None:
        """Number of samples in all shards, if `sizes.json` beside them says so."""
        sizes = [_expected(url) for url in self.urls]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def __iter__(self) -> Iterator[Sample]:
        worker = get_worker_info()
        index, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        for group in self._shuffled(self._groups(index, workers), index):
            item = group if isinstance(group, Skipped) else self._sample(group)
            if isinstance(item, Sample) or worker is not None:
                yield item  # type: ignore[misc]  # a worker's Skipped goes through collate
            else:
                self.skip(item.key, item.reason)

    def skip(self, key: str, reason: str) -> None:
        """Enter a sample or shard in `skipped`, once."""
        if key not in self._known:
            self._known.add(key)
            self.skipped.append((key, reason))

    def report(self, limit: int = 10) -> str:
        """What was skipped so far and why, for people."""
        lines = [f"{len(self.urls)} shards, {len(self.skipped)} entries skipped"]
        lines += [f"  {key}: {reason}" for key, reason in self.skipped[:limit]]
        return "\n".join(lines + ([f"  and {len(self.skipped) - limit} more"] if len(self.skipped) > limit else []))

    # --- order --------------------------------------------------------------------------------------------------------

    def _groups(self, worker: int, workers: int) -> Iterator[_Group | Skipped]:
        urls = list(self.urls)
        if self.shuffle:
            urls = [urls[i] for i in self._generator(0).permutation(len(urls))]
        stride, offset = 1, 0
        for index, count in ((self.rank, self.world), (worker, workers)):
            if stride == 1 and len(urls) >= count:
                urls = urls[index::count]
            else:
                stride, offset = stride * count, offset + stride * index
        number = -1  # runs on from shard to shard, or short shards would leave the last takers without samples
        for url in urls:
            for group in read_shard(url):
                number += isinstance(group, _Group)
                if isinstance(group, Skipped) or number % stride == offset:
                    yield group

    def _shuffled(self, groups: Iterator[_Group | Skipped], worker: int) -> Iterator[_Group | Skipped]:
        if self.shuffle < 2:
            yield from groups
            return
        generator = self._generator(1, self.rank, worker)
        buffer: list[_Group | Skipped] = []
        for group in groups:
            if len(buffer) < self.shuffle:
                buffer.append(group)
                continue
            place = int(generator.integers(len(buffer)))
            buffer[place], group = group, buffer[place]
            yield group
        yield from (buffer[i] for i in generator.permutation(len(buffer)))

    def _generator(self, *purpose: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, self.epoch, *purpose])

    # --- samples ------------------------------------------------------------------------------------------------------

    def _sample(self, group: _Group) -> Sample | Skipped:
        sample = _encoded_sample(group, self.captions)
        if isinstance(sample, Skipped):
            return sample
        try:
            image = open_image(sample.image, mode="auto")
        except DataError as error:
            name = printable(f"{group.shard}:{group.key}")
            return Skipped(name, str(error).removeprefix(f"{len(sample.image)} bytes: "))
        alpha = image.getchannel("A") if image.mode == "RGBA" else None
        if alpha is not None and alpha.getextrema() == (255, 255):
            alpha = None
        return Sample(
            image=composite(image, self.background) if self.mode == "RGB" else image.convert("RGBA"),
            caption=sample.caption,
            key=sample.key,
            alpha=alpha,
            label=sample.label,
            attributes=sample.attributes,
            source=sample.source,
        )


@dataclass(frozen=True)
class EncodedSample:
    """A sample of a shard whose picture is not decoded.

    Attributes:
        image: the picture's file as it is.
        caption, key, label, attributes, source: as of `Sample`.
    """

    image: bytes
    caption: str
    key: str
    label: int | None
    attributes: dict[str, Any]
    source: str


def read_encoded(url: str, captions: Captions = "auto") -> Iterator[EncodedSample | Skipped]:
    """The samples of one shard in order, their pictures not decoded; what cannot be used is `Skipped`.

    Args:
        url: of the shard.
        captions: as of `ShardDataset`.
    """
    for _, sample in read_groups(url, captions):
        yield sample


def read_groups(url: str, captions: Captions = "auto") -> Iterator[tuple[_Group, EncodedSample | Skipped]]:
    """The samples of one shard with all their parts; those of a damaged shard's end have none.

    Args:
        url, captions: as of `read_encoded`.
    """
    for group in read_shard(url):
        yield (_Group("", ""), group) if isinstance(group, Skipped) else (group, _encoded_sample(group, captions))


def _encoded_sample(group: _Group, captions: Captions) -> EncodedSample | Skipped:
    name = printable(f"{group.shard}:{group.key}")
    if not_unicode(group.key):
        return Skipped(name, "its name is not UTF-8")
    try:
        image = _picture(group.parts)
        caption, label, attributes = ("", None, {}) if captions is None else _described(group.parts)
    except DataError as error:
        return Skipped(name, str(error))
    if captions == "needed" and not caption:
        return Skipped(name, "no caption")
    key, source = attributes.pop("key", group.key), attributes.pop("source", group.shard)
    return EncodedSample(image, caption, key, label, attributes, source)


@dataclass
class _Group:
    """The files of one sample: suffix -> bytes."""

    shard: str
    key: str
    parts: dict[str, bytes] = field(default_factory=dict)


def read_shard(url: str) -> Iterator[_Group | Skipped]:
    """The samples of one shard in order, undecoded; what is wrong with the shard comes last, as `Skipped`.

    Raises:
        DataError: a server of objects that cannot be reached or refuses: the shard may be whole, and must not be left
            out for that.
    """
    shard, done = os.path.basename(url.split("?")[0]), 0
    current: _Group | None = None
    try:
        with _stream(url) as stream:
            for name, data in _files(stream):
                folder, _, base = name.rpartition("/")
                stem, _, suffix = base.partition(".")
                key = f"{folder}/{stem}" if folder else stem
                if current is None or key != current.key:
                    if current is not None:
                        done += 1
                        yield current
                    current = _Group(shard, key)
                current.parts[suffix.lower()] = data
            # Only here is the last sample known to be whole.
            if current is not None:
                done += 1
                yield current
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        if is_object(url) and isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise refused(url, error) from error
        of = _expected(url)
        lost = f"the rest is skipped after {done}{f' of {of}' if of is not None else ''} samples"
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"{_text(error)}; {lost}"
        yield Skipped(url, reason)


def _stream(url: str) -> Any:  # a file of bytes, or webdataset's pipe, which is none by its class
    if is_local(url):
        return open_local(url)
    if is_object(url):
        return open_object(url)
    gopen: Any = require("webdataset.gopen", "train")
    return gopen.gopen(url, "rb")


class _Header(tarfile.TarInfo):
    """A tar header that tells its archive how the archive ended: `tarfile` keeps that to itself."""

    @classmethod
    def fromtarfile(cls, tarfile: Any) -> Any:  # the name is the overridden method's
        try:
            return super().fromtarfile(tarfile)
        except Exception as error:
            tarfile.ended = error
            raise


def _files(stream: Any) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every regular file of a tar stream; an archive without an end mark is an error."""
    with tarfile.open(fileobj=stream, mode="r|*", tarinfo=_Header) as archive:
        for member in archive:
            if member.isreg() and not os.path.basename(member.name).startswith("."):
                content = archive.extractfile(member)
                data = content.read() if content is not None else b""
                if len(data) != member.size:
                    raise tarfile.ReadError("truncated shard")
                yield member.name, data
            archive.members = []  # type: ignore[attr-defined]  # or it would remember every header
        ended = getattr(archive, "ended", None)
    if type(ended).__name__ != "EOFHeaderError":
        raise tarfile.ReadError("truncated or damaged shard (there is no end-of-archive mark)")


def _text(error: BaseException) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return "truncated shard" if text in ("unexpected end of data", "empty file") else text


def _picture(parts: dict[str, bytes]) -> bytes:
    """The encoded picture of a sample: `jpg`, `image.jpg`, or the only picture under another name."""
    suffixes = [suffix for suffix in parts if f".{suffix.rpartition('.')[2]}" in IMAGE_SUFFIXES]
    suffixes = [suffix for suffix in suffixes if suffix.partition(".")[0] not in OTHER_PICTURES]
    chosen = _named(suffixes, PICTURE_PARTS)
    if chosen is None and not suffixes:
        raise DataError(f"no image among its parts ({', '.join(parts)})")
    if chosen is None:
        raise DataError(f"several images among its parts ({', '.join(suffixes)}): call the right one image.png")
    return parts[chosen]


def _named(matching: Sequence[str], names: Collection[str]) -> str | None:
    """A part without a name (`png`), else one that is named so (`image.png`), else the only one."""
    plain = [suffix for suffix in matching if "." not in suffix]
    named = [suffix for suffix in matching if suffix.partition(".")[0] in names]
    return next(iter([*plain, *named, *(matching if len(matching) == 1 else [])]), None)


def _described(parts: dict[str, bytes]) -> tuple[str, int | None, dict[str, Any]]:
    """First caption, label and attributes of a sample."""
    record = _record(parts)
    texts = [suffix for suffix in parts if suffix.rpartition(".")[2] in ("txt", "caption")]
    text = _named(texts, TEXT_PARTS)
    column = first_column(record, CAPTION_COLUMNS[:4]) or "caption"
    try:
        given = parts[text].decode("utf-8-sig").splitlines() if text is not None else record.get(column)
        number = _named([suffix for suffix in parts if suffix.rpartition(".")[2] == "cls"], ())
        label = int(parts[number]) if number is not None else record.get("label")
    except UnicodeDecodeError as error:
        raise DataError("its caption is not UTF-8 text") from error
    except ValueError as error:
        raise DataError(f"its .cls is not a number ({error})") from error
    if given is None and label is None:
        raise DataError(f"neither caption nor label among its parts ({', '.join(parts)})")
    captions = read_captions(given)
    # An empty one is no caption, here as in folders and tables: img2dataset writes "" where a page said nothing.
    if given is not None and not captions:
        raise DataError("no caption: it is empty")
    if any(not_unicode(caption) for caption in captions):
        raise DataError("its caption is not Unicode text")
    if isinstance(label, int) and not -(1 << 63) <= label < 1 << 63:
        raise DataError("its label is no number that a label can be")
    used = {"caption", "text", "label"} | ({column} if text is None else set())
    attributes = {name: value for name, value in record.items() if name not in used}
    if len(captions) > 1:
        attributes["captions"] = captions
    return captions[0] if captions else "", label if isinstance(label, int) else None, attributes


def _record(parts: dict[str, bytes]) -> dict[str, Any]:
    suffix = _named([suffix for suffix in parts if suffix.rpartition(".")[2] == "json"], ("metadata", "meta"))
    if suffix is None:
        return {}
    try:
        record = read_json(parts[suffix])
    except DataError as error:
        raise DataError(f"its .json cannot be read ({error})") from error
    if suffix.partition(".")[0] in TEXT_PARTS and isinstance(record, (list, str)):
        return {"caption": record}
    if not isinstance(record, dict):
        raise DataError("its .json is not an object")
    return record


# --- where ------------------------------------------------------------------------------------------------------------


def _expected(url: str) -> int | None:
    """How many samples a local shard should have, from `sizes.json` beside it."""
    if not is_local(url):
        return None
    path = Path(local_path(url))
    try:
        return int(read_json(read_file(path.parent / SIZES))[path.name])
    except (DataError, ValueError, KeyError, TypeError, OverflowError):
        return None  # a count is a courtesy: without one there is none to tell


def _place() -> tuple[int, int]:
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
