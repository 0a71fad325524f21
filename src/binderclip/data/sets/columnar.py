"""Pictures inside tables: Parquet files of Hugging Face or img2dataset, and what `datasets` saves with `save_to_disk`.

A column of pictures holds encoded files: bytes, or a struct of `bytes` and `path`. They are read when they are asked
for: a Parquet file by row groups, an Arrow file through a memory map.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.data.files import irregular, list_files, read_file
from binderclip.data.formats.folder_rows import SPLIT_FOLDERS
from binderclip.data.formats.tables import parse_record, read_json
from binderclip.data.images import WHITE
from binderclip.data.sets.dataset import ImageTextDataset, Mode
from binderclip.data.sets.folder import take_split, unique_keys
from binderclip.documents import parse_json
from binderclip.errors import DataError

PICTURE_COLUMNS = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "image_bytes", "bytes")
_SAVED, _SAVED_SPLITS = "state.json", "dataset_dict.json"
_SPLIT = re.compile(rf"(?:^|[/._-])({'|'.join(SPLIT_FOLDERS)})(?=[/._-]|$)", re.IGNORECASE)
_HELD = 4
"""Row groups of Parquet files that are held at once."""


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of Hugging Face datasets."""
    return (folder / _SAVED).is_file() or (folder / _SAVED_SPLITS).is_file()


def has_picture_files(folder: Path) -> bool:
    """Whether any Parquet file below a folder holds pictures."""
    return any(has_pictures(folder / name) for name in list_files(folder, suffixes=(".parquet",))[0])


def has_pictures(path: Path) -> bool:
    """Whether a Parquet file has a column of pictures; a damaged one has none."""
    try:
        return _picture_column(_Parquet(path).schema) is not None
    except DataError:
        return False


def load_tables(
    path: str | os.PathLike[str],
    split: str | None = None,
    *,
    mode: Mode = "RGB",
    background: tuple[int, int, int] = WHITE,
    size_hint: int | None = None,
) -> ImageTextDataset:
    """Open pictures that lie in Parquet or Arrow files.

    The picture column is called `image`, `img`, `jpg`, `png`, ...; captions, labels, splits and attributes are read as
    from a table of a folder, names of classes from what Hugging Face writes into the schema. A file or folder named
    after a split (`data/train-00000-of-00002.parquet`, `train/`) gives the split.

    Args:
        path: a Parquet file, a folder of them, or a folder of `save_to_disk`.
        split: "train", "val", "test", or None for everything.
        mode: "RGB" or "RGBA".
        background: colour under transparent parts, 0..255.
        size_hint: decode large JPEGs at reduced size (see `open_image`).

    Raises:
        UsageError: there is no such split.
        DataError: no readable file, no column of pictures, or no row that can be used.
    """
    root = Path(path)
    parts = _parts(root)
    rows = _Rows()
    for name, part, source in parts:
        try:
            rows.add(name, part, source)
        except DataError as error:
            rows.skipped.append((name, str(error)))
    if not rows.keys:
        first = f"; {rows.skipped[0][0]}: {rows.skipped[0][1]}" if rows.skipped else ""
        raise DataError(f"{root}: none of {len(rows.skipped)} rows or files can be used{first}")
    dataset = rows.dataset(root.resolve().stem, {"mode": mode, "background": background, "size_hint": size_hint})
    return dataset if split is None else take_split(dataset, split, str(root))


def _parts(root: Path) -> list[tuple[str, str | None, _Parquet | _Arrow]]:
    """(name, split, file) of every file."""
    if root.is_file():
        return [(root.name, split_in_name(root.name), _Parquet(root))]
    if (root / _SAVED_SPLITS).is_file():
        names = _entry(root / _SAVED_SPLITS, "splits")
        files = [(str(name), SPLIT_FOLDERS.get(str(name).lower(), str(name))) for name in names]
        return [part for name, split in files for part in _saved(root / name, f"{name}/", split)]
    if (root / _SAVED).is_file():
        return list(_saved(root, "", None))
    names, _ = list_files(root, suffixes=(".parquet",))
    return [(name, split_in_name(name), _Parquet(root / name)) for name in names]


def _saved(folder: Path, prefix: str, split: str | None) -> list[tuple[str, str | None, _Parquet | _Arrow]]:
    files = [entry.get("filename") for entry in _entry(folder / _SAVED, "_data_files") if isinstance(entry, dict)]
    names = [name for name in files if isinstance(name, str) and name == os.path.basename(name)]
    return [(f"{prefix}{name}", split, _Arrow(folder / name)) for name in names]


def _entry(path: Path, key: str) -> list[Any]:
    try:
        document = read_json(read_file(path))
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, list):
        raise DataError(f"{path}: it should be an object with the list {key!r}")
    return value


def split_in_name(name: str) -> str | None:
    """The split that a file is named after: `data/train-00000-of-00002.parquet`, `val/0.tar`; or None."""
    match = _SPLIT.search(os.path.splitext(name)[0])
    return SPLIT_FOLDERS[match[1].lower()] if match else None


# --- files ------------------------------------------------------------------------------------------------------------


class _Arrow:
    """One Arrow file, stream or random access, in a memory map that each process makes for itself."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table: Any = None

    @property
    def table(self) -> Any:
        import pyarrow as pa

        if self._table is None:
            kind = irregular(self.path)
            if kind is not None:
                raise DataError(f"{self.path.name}: is {kind}, not a file")
            try:
                source = pa.memory_map(str(self.path))
                try:
                    reader = pa.ipc.open_stream(source)
                except pa.ArrowInvalid:
                    reader = pa.ipc.open_file(source)
                self._table = reader.read_all()
            except FileNotFoundError as error:
                raise DataError(f"{self.path.name}: no such file") from error
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.path.name}: not a readable Arrow file ({error})") from error
        return self._table

    @property
    def schema(self) -> Any:
        return self.table.schema

    def columns(self, names: list[str]) -> Any:
        return self.table.select(names)

    def value(self, column: str, row: int) -> Any:
        return self.table.column(column)[row].as_py()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_table": None}


class _Parquet:
    """One Parquet file; the few row groups read last are held, shared by all files."""

    _groups: OrderedDict[tuple[Path, int, str, int], Any] = OrderedDict()
    _lock = threading.Lock()

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: Any = None
        self._ends: Any = None

    @property
    def file(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._file is None or self._file[0] != os.getpid():
            kind = irregular(self.path)
            if kind is not None:
                raise DataError(f"{self.path.name}: is {kind}, not a file")
            try:
                parquet = pq.ParquetFile(self.path)
            except FileNotFoundError as error:
                raise DataError(f"{self.path.name}: no such file") from error
            except (pa.ArrowException, OSError) as error:
                raise DataError(f"{self.path.name}: not a readable Parquet file ({error})") from error
            counts = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
            self._file, self._ends = (os.getpid(), parquet), np.cumsum(counts)
        return self._file[1]

    @property
    def schema(self) -> Any:
        return self.file.schema_arrow

    def columns(self, names: list[str]) -> Any:
        import pyarrow as pa

        try:
            return self.file.read(columns=names)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path.name}: damaged Parquet file ({error})") from error

    def value(self, column: str, row: int) -> Any:
        import pyarrow as pa

        with self._lock:
            file = self.file
            group = int(np.searchsorted(self._ends, row, side="right"))
            key = (self.path, group, column, os.getpid())
            if key not in self._groups:
                try:
                    self._groups[key] = file.read_row_group(group, columns=[column]).column(0)
                except (pa.ArrowException, OSError) as error:
                    raise DataError(f"{self.path.name}: damaged row group {group} ({error})") from error
                while len(self._groups) > _HELD:
                    self._groups.popitem(last=False)
            self._groups.move_to_end(key)
            held = self._groups[key]
        return held[row - (int(self._ends[group - 1]) if group else 0)].as_py()

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_file": None, "_ends": None}


class _Cells(Sequence[Any]):
    """The pictures of several files: encoded bytes, or the path that a cell names instead."""

    def __init__(self, cells: list[tuple[_Parquet | _Arrow, str, int]]) -> None:
        self._cells = cells

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return _Cells(self._cells[index])
        source, column, row = self._cells[index]
        value = source.value(column, row)
        data = value.get("bytes") if isinstance(value, dict) else value
        if data:
            return data
        place = value.get("path") if isinstance(value, dict) else None
        if not place:
            raise DataError(f"{source.path.name}:{row}: no picture in its row")
        return source.path.parent / place


# --- rows -------------------------------------------------------------------------------------------------------------


def _picture_column(schema: Any) -> str | None:
    import pyarrow as pa

    def holds(kind: Any) -> bool:
        if pa.types.is_struct(kind):
            return any(field.name == "bytes" and holds(field.type) for field in kind)
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    kinds = {field.name: field.type for field in schema}
    columns = {name.lower(): name for name, kind in kinds.items() if holds(kind)}
    known = next((columns[name] for name in PICTURE_COLUMNS if name in columns), None)
    return known or (next(iter(columns.values())) if len(columns) == 1 else None)


def _plain_columns(schema: Any, but: str) -> list[str]:
    """Columns of texts, numbers and lists of these: further pictures and the like are not held."""
    import pyarrow as pa

    def plain(kind: Any) -> bool:
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            return plain(kind.value_type)
        if pa.types.is_struct(kind):
            return all(plain(field.type) for field in kind)
        return not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    return [field.name for field in schema if field.name != but and plain(field.type)]


def _class_names(schema: Any, path: Path) -> dict[str, list[str]]:
    """Column -> names of its numbers, where Hugging Face says so: in the schema, or in `dataset_info.json` beside."""
    try:
        written = parse_json((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = written.get("info", {}).get("features")
        if features is None and (path.parent / "dataset_info.json").is_file():
            features = read_json(read_file(path.parent / "dataset_info.json")).get("features")
        names_of_columns = {
            name: kind.get("names") for name, kind in (features or {}).items() if isinstance(kind, dict)
        }
    except (ValueError, AttributeError, RecursionError, DataError):
        return {}  # names are a courtesy: without them the numbers are the names
    return {
        name: names
        for name, names in names_of_columns.items()
        if isinstance(names, list) and all(isinstance(text, str) for text in names)
    }


class _Rows:
    """Rows of several files, put together."""

    def __init__(self) -> None:
        self.cells: list[tuple[_Parquet | _Arrow, str, int]] = []
        self.keys: list[str] = []
        self.captions: list[str] = []
        self.labels: list[str | None] = []
        self.attributes: list[dict[str, Any]] = []
        self.skipped: list[tuple[str, str]] = []

    def add(self, name: str, split: str | None, source: _Parquet | _Arrow) -> None:
        column = _picture_column(source.schema)
        if column is None:
            raise DataError(f"no column of pictures (bytes); it has {', '.join(source.schema.names)}")
        names = _class_names(source.schema, source.path)
        table = source.columns(_plain_columns(source.schema, column))
        columns = {title: table.column(title).to_pylist() for title in table.column_names}
        for title, texts in names.items():
            if title in columns:
                columns[title] = [
                    texts[v] if isinstance(v, int) and 0 <= v < len(texts) else None for v in columns[title]
                ]
        for row in range(table.num_rows):
            self._add_row(f"{name}:{row}", {title: values[row] for title, values in columns.items()}, split)
            if len(self.keys) > len(self.cells):
                self.cells.append((source, column, row))

    def _add_row(self, where: str, record: dict[str, Any], split: str | None) -> None:
        if record.get("status") not in (None, "success") and "error_message" in record:
            self.skipped.append((where, str(record["error_message"] or record["status"])))  # img2dataset's failures
            return
        key = record.pop("key", None)
        described = parse_record(record)
        if isinstance(described, str):
            self.skipped.append((where, described))
            return
        name, captions, label, attributes = described
        if not captions:
            self.skipped.append((where, "no caption"))
            return
        if split is not None:
            attributes.setdefault("split", split)
        self.keys.append(str(key or name or where))
        self.captions.append(captions[0])
        self.labels.append(label)
        self.attributes.append(attributes)

    def dataset(self, source: str, reading: dict[str, Any]) -> ImageTextDataset:
        classes = sorted({label for label in self.labels if label is not None})
        position = {label: number for number, label in enumerate(classes)}
        names = dict.fromkeys(name for attributes in self.attributes for name in attributes)
        return ImageTextDataset(
            _Cells(self.cells),
            self.captions,
            unique_keys(self.keys),
            labels=[-1 if label is None else position[label] for label in self.labels],
            classes=classes,
            attributes={name: [attributes.get(name) for attributes in self.attributes] for name in names},
            source=source,
            skipped=self.skipped,
            **reading,
        )
