"""Pools of samples over everything `binderclip.data` reads, and over DataComp's tables of metadata."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from binderclip.curate.engine.arrays import npz_names, read_npz
from binderclip.curate.engine.columns import ColumnValues, as_column, from_arrow
from binderclip.curate.engine.keys import Keys, keys_of
from binderclip.curate.engine.selection import KeySelection
from binderclip.curate.engine.shard import SampleTable, Shard
from binderclip.curate.engine.store import ColumnStore
from binderclip.data.files import list_files
from binderclip.data.formats.addresses import is_local, local_path
from binderclip.data.formats.folder_rows import UndescribedPictures
from binderclip.data.sets.columnar import has_pictures
from binderclip.data.sets.dataset import ImageTextDataset
from binderclip.data.sets.folder import load_folder
from binderclip.data.sets.loading import load_data
from binderclip.data.sets.sample import Skipped, captions_of
from binderclip.data.sets.shards import EncodedSample, ShardDataset, read_encoded
from binderclip.data.storage import is_object, list_objects, object_state, open_place
from binderclip.display import number_of
from binderclip.errors import DataError

ROWS = 4096
"""Samples of a data set without shards that are worked on at once."""
ROWS_OF_SHARDS = 2
"""Which samples of a tar shard are rows: columns that were kept by another rule are made again."""
TARS = (".tar", ".tar.gz", ".tgz")
_UID, _TEXT = ("uid", "key", "name"), ("text", "caption")


def open_table(
    spec: str | ImageTextDataset | ShardDataset,
    split: str | None = None,
    *,
    store: ColumnStore | None = None,
    allow_pipe: bool = False,
    texts: bool = True,
) -> SampleTable:
    """Open a pool of samples.

    Args:
        spec: a data set; or what `data.load_data` takes; or a Parquet file or folder of DataComp's metadata: columns
            `uid` and `text` with further ones, and beside each file an `.npz` of features; or what `embed_shards` left.
        split: as in `load_data`.
        store: keeps the texts of tar shards, so that they are read through only once.
        allow_pipe: as in `load_data`.
        texts: whether captions are needed. Else a folder of pictures that nothing describes is a pool, too, and each
            text is empty.

    Raises:
        UsageError: no such data set.
        DataError: it holds nothing usable.
    """
    if isinstance(spec, str):
        if files := _metadata_objects(spec) if is_object(spec) else _metadata_files(Path(spec)):
            return MetadataTable(files)
        name = spec
        try:
            spec = load_data(name, split, allow_pipe=allow_pipe)
        except UndescribedPictures:
            if texts:
                raise
            spec = load_folder(name, split, captions=None)
    return TarTable(spec, store) if isinstance(spec, ShardDataset) else DatasetTable(spec)


def filtered(dataset: ImageTextDataset, selection: KeySelection) -> ImageTextDataset:
    """The samples of a data set that a selection keeps, in their order; to train on, or for any loader.

    Args:
        dataset: with the names or `uid` attributes that the selection was made of.
        selection: as a pipeline gives it, or `KeySelection.load`.
    """
    return dataset.subset(selection.mask(_keys(dataset.keys, dataset.attributes.get("uid"))))


class DatasetTable:
    """An `ImageTextDataset` as a pool.

    Args:
        dataset: its captions, attributes and pictures.
        rows: samples of a shard; no result depends on it.
    """

    def __init__(self, dataset: ImageTextDataset, rows: int = ROWS) -> None:
        self.dataset, self.rows = dataset, rows
        self._starts = {f"samples from {start}": start for start in range(0, len(dataset), rows)}
        self.ids: Sequence[str] = list(self._starts)
        self._stamps: dict[str, str] = {}

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of pictures that could not be read."""
        return self.dataset.skipped

    def load(self, id: str) -> Shard:
        """See `SampleTable`."""
        start = self._starts[id]
        part = self.dataset.subset(range(start, min(start + self.rows, len(self.dataset))))
        columns = {name: as_column(values) for name, values in part.attributes.items() if name != "captions"}
        columns |= {"label": part.column("label"), "source": part.sources}
        if id not in self._stamps:
            states = [_state(part, row) for row in range(len(part))]
            self._stamps[id] = _digest([part.keys, part.all_captions, states])
        return _shard(id, part.keys, part.all_captions, columns, _DatasetPictures(part), self._stamps[id])


class _DatasetPictures:
    """Reads pictures of a data set: encoded where they are, so that they are decoded in threads."""

    def __init__(self, dataset: ImageTextDataset) -> None:
        self.dataset = dataset

    def __call__(self, rows: Int[np.ndarray, "k"]) -> Iterator[Any]:
        for row in rows.tolist():
            try:
                data = self.dataset.encoded(row)
                yield self.dataset[row].image if data is None else data
            except (DataError, OSError):
                yield b""  # as unreadable as a damaged one


class TarTable:
    """WebDataset shards as a pool; pictures stay in the tar files, which are read again when a signal wants them.

    Args:
        dataset: its shards.
        store: keeps texts and attributes of shards between passes.
    """

    def __init__(self, dataset: ShardDataset, store: ColumnStore | None = None) -> None:
        self.dataset, self.store = dataset, store or ColumnStore()
        self.ids: Sequence[str] = dataset.urls

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(key, reason) of samples and shards that could not be read."""
        return self.dataset.skipped

    def load(self, id: str) -> Shard:
        """See `SampleTable`."""
        state = _file_state(id)
        stamp, lasting = _digest([id, state, ROWS_OF_SHARDS]), bool(state)
        unread: list[Skipped] = []
        columns = dict(self.store.fetch("texts", stamp, lambda: _read_columns(id, unread), lasting=lasting))
        unread_columns: dict[str, ColumnValues] = {
            name: [getattr(item, name) for item in unread] for name in ("key", "reason")
        }
        lost = self.store.fetch("skipped", stamp, lambda: unread_columns, lasting=lasting)
        for key, reason in zip(_list(lost["key"]), _list(lost["reason"]), strict=True):
            self.dataset.skip(key, reason)
        shard = _tar_shard(id, columns, _TarPictures(id), stamp)
        shard.lasting = lasting
        return shard

    def state(self, id: str) -> str:
        """What changes with a shard and is known before it is read; "" of one of which nothing is."""
        return _file_state(id)

    def pieces(self, id: str, rows: int, unread: list[Skipped]) -> Iterator[Shard]:
        """A shard `rows` samples at a time, with pictures in memory: in one pass, for what wants all of them.

        Args:
            id: of the shard.
            rows: samples of a piece, at most.
            unread: gets what cannot be read.
        """
        held: list[EncodedSample] = []
        for sample in read_encoded(id):
            if isinstance(sample, Skipped):
                unread.append(sample)
                continue
            held.append(sample)
            if len(held) == rows:
                yield _held_shard(id, held)
                held = []
        if held:
            yield _held_shard(id, held)


def _read_columns(id: str, unread: list[Skipped]) -> dict[str, ColumnValues]:
    samples: list[EncodedSample] = []
    for sample in read_encoded(id):
        if isinstance(sample, Skipped):
            unread.append(sample)
        else:
            samples.append(replace(sample, image=b""))
    return _columns_of(samples)


def _columns_of(samples: Sequence[EncodedSample]) -> dict[str, ColumnValues]:
    names = dict.fromkeys(name for sample in samples for name in sample.attributes if name != "captions")
    columns = {name: as_column([sample.attributes.get(name) for sample in samples]) for name in names}
    plain = {name: values for name, values in columns.items() if _is_plain(values)}
    texts = [captions_of(sample.caption, sample.attributes.get("captions")) for sample in samples]
    labels = as_column([sample.label for sample in samples])
    keys = [str(sample.key) for sample in samples]
    return {**plain, "label": labels, "source": [sample.source for sample in samples], "texts": texts, "name": keys}


def _tar_shard(id: str, columns: dict[str, ColumnValues], pictures: Any, stamp: str) -> Shard:
    rest = {name: values for name, values in columns.items() if name not in ("name", "texts")}
    return _shard(id, _list(columns["name"]), _list(columns["texts"]), rest, pictures, stamp)


def _held_shard(id: str, samples: list[EncodedSample]) -> Shard:
    pictures = [sample.image for sample in samples]
    return _tar_shard(id, _columns_of(samples), lambda rows: (pictures[row] for row in rows.tolist()), "")


class _TarPictures:
    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, rows: Int[np.ndarray, "k"]) -> Iterator[Any]:
        chosen, number = set(rows.tolist()), -1
        for sample in read_encoded(self.url):
            if isinstance(sample, EncodedSample):
                number += 1
                if number in chosen:
                    yield sample.image


class MetadataTable:
    """DataComp's metadata as a pool: Parquet files of `uid`, `text` and scores, features in `.npz` files beside them.

    A pass reads the keys and the columns that it asks for, no others.

    Args:
        files: the Parquet files; each is a shard. An array `l14_img` of `0001.npz` is the column `l14_img` of
            `0001.parquet`.
    """

    def __init__(self, files: Sequence[str | Path]) -> None:
        self.ids: Sequence[str] = [str(path) for path in files]
        self.skipped: list[tuple[str, str]] = []

    def load(self, id: str) -> Shard:
        """See `SampleTable`."""
        known = _text_columns(id)
        naming, telling = (_first(known, names, id) for names in (_UID, _TEXT))
        own = {name: _parquet_column(id, name) for name in dict.fromkeys((naming, *("uid",) * ("uid" in known)))}
        names = [str(name) for name in _list(own[naming])]
        late: dict[str, Callable[[], ColumnValues]] = {name: partial(_parquet_column, id, name) for name in known}
        features = Path(id).with_suffix(".npz")
        if not is_object(id) and features.is_file():
            late |= {name: partial(_npz, features, name, len(names)) for name in npz_names(features)}
        late |= {"text": partial(_captions, id, telling), "texts": lambda: [[text] for text in _captions(id, telling)]}
        keys = _keys(names, own.get("uid"))
        return Shard(id, keys, {**own, "name": names}, None, _digest([id, _file_state(id)]), late)


def _shard(
    id: str, names: list[str], texts: list[list[str]], columns: dict[str, ColumnValues], pictures: Any, stamp: str
) -> Shard:
    own: dict[str, ColumnValues] = {"name": names, "texts": texts, "text": [several[0] for several in texts]}
    return Shard(id, _keys(names, columns.get("uid")), {**columns, **own}, pictures, stamp)


def _keys(names: Sequence[str], given: Any) -> Keys:
    """The keys of samples: of their uids, of their names where they have none."""
    uids = given if isinstance(given, list) else [None] * len(names)
    return keys_of([str(uid) if uid else name for uid, name in zip(uids, names, strict=True)])


def _text_columns(file: str) -> dict[str, bool]:
    """The columns of a Parquet file, and whether each holds texts."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_place(file) as opened:
            schema = pq.read_schema(opened)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{file}: damaged Parquet file ({error})") from error
    numbers = (pa.types.is_integer, pa.types.is_floating, pa.types.is_list, pa.types.is_fixed_size_list)
    return {field.name: not any(holds(field.type) for holds in numbers) for field in schema}


def _parquet_column(file: str, name: str) -> ColumnValues:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with open_place(file) as opened:
            return from_arrow(pq.ParquetFile(opened).read(columns=[name]).column(name))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(f"{file}: damaged Parquet file ({error})") from error


def _captions(file: str, name: str) -> list[str]:
    return [str(text or "") for text in _list(_parquet_column(file, name))]


def _first(columns: Mapping[str, bool], names: Sequence[str], file: str) -> str:
    """The first of some columns that holds texts."""
    for name in names:
        if columns.get(name):
            return name
    raise DataError(f"{file}: no column {' or '.join(names)} of texts; it has {', '.join(columns)}")


def _metadata_objects(address: str) -> list[str]:
    """The Parquet files below an address that is no shard's; only those of metadata are ever put there without tars."""
    if address.endswith(".parquet"):
        return [address]
    objects = list_objects(address, (".parquet", ".tar")) if not address.rstrip("}").endswith(TARS) else []
    return objects if all(name.endswith(".parquet") for name in objects) else []


def _metadata_files(path: Path) -> list[Path]:
    """The Parquet files of metadata that a path names: without pictures, with uids."""
    if path.is_dir():
        files = [path / name for name in list_files(path, suffixes=(".parquet",))[0]]
        only = files and not any(path.glob("*.tar")) and not any(path.glob("*.jpg"))
        return files if only and all(_is_metadata(file) for file in files) else []
    return [path] if path.suffix.lower() == ".parquet" and path.is_file() and _is_metadata(path) else []


def _is_metadata(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        names = pq.read_schema(path).names
    except (pa.ArrowException, OSError):
        return False
    return "uid" in names and any(name in names for name in _TEXT) and not has_pictures(path)


def _npz(path: Path, name: str, rows: int) -> np.ndarray:
    arrays = read_npz(path, name)
    if arrays.shape[:1] != (rows,):
        raise DataError(f"{path}: {name} has the shape {arrays.shape}, the table beside it {number_of(rows, 'row')}")
    return arrays


def _is_plain(values: ColumnValues) -> bool:
    """Whether a column can be written to a file: numbers, texts, or lists of texts."""
    if not isinstance(values, list):
        return True
    return all(
        value is None or isinstance(value, str) or (isinstance(value, list) and all(isinstance(v, str) for v in value))
        for value in values
    )


def _list(column: ColumnValues) -> list[Any]:
    assert isinstance(column, list)  # of texts, which nothing else holds
    return column


def _state(dataset: ImageTextDataset, row: int) -> str:
    try:
        return dataset.state(row)
    except DataError:
        return ""


def _file_state(url: str) -> str:
    """Size and time of a file or object; of what lies elsewhere nothing is known before it is read."""
    if is_object(url):
        return object_state(url)
    try:
        status = os.stat(local_path(url)) if is_local(url) else None
    except OSError:
        status = None
    return f"{status.st_size} {status.st_mtime_ns}" if status else ""


def _digest(facts: Sequence[Any]) -> str:
    return hashlib.blake2b(repr(facts).encode("utf-8", "backslashreplace"), digest_size=12).hexdigest()
