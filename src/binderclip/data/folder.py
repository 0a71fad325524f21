"""A folder of images as a data set: captions from a table, from `.txt` files beside them, or from folder names."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from binderclip.data.dataset import ImageTextDataset, Mode, join
from binderclip.data.images import IMAGE_SUFFIXES, WHITE, list_images
from binderclip.errors import DataError, UsageError

FILE_COLUMNS = ("file_name", "file", "filename", "filepath", "image", "image_path", "img", "path")
CAPTION_COLUMNS = ("caption", "text", "captions", "title", "description")
LABEL_COLUMNS = ("label", "class", "class_name", "category")
SEVERAL_COLUMN = "labels"
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test", "shift": "shift"}


@dataclass
class _Row:
    """One picture as a folder describes it; `where` is what an error should name."""

    path: Path
    caption: str
    where: str
    label: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


def load_folder(
    folder: str | os.PathLike[str],
    split: str | None = None,
    *,
    captions: str | os.PathLike[str] | None = "auto",
    template: str = "{}",
    mode: Mode = "RGB",
    background: tuple[int, int, int] = WHITE,
    size_hint: int | None = None,
) -> ImageTextDataset:
    """Open a folder of images with captions.

    Captions come from the first of these that is there:

    1. a table in the folder: CSV, TSV or JSONL (`captions.*`, `metadata.*`, or the only one there is) with a column
       file_name, file, filename, image or path, and a column caption or text; optional label and split; all others
       become attributes. A column `labels` holds several labels a picture, separated by `;` or `|` (in JSONL a list),
       and becomes an attribute of lists. A table without a header has the file first and the caption second.
    2. `name.txt` beside `name.jpg`: the first line is the caption; all lines are the attribute `captions`.
    3. folders named after classes: the class is the label, and the caption with dashes and underscores as spaces.

    Class folders give labels under 2 as well. Subfolders named train, val and test are the splits. A picture without a
    file, a caption or readable content is entered in `skipped` with the reason, never silently left out.

    Args:
        folder: where the images are; they may lie in subfolders. The path of a table stands for its folder.
        split: "train", "val", "test", or None for everything.
        captions: "auto"; the path of a table; "txt"; "folders"; or None for pictures without captions.
        template: makes a caption of a class name: "a photo of a {}".
        mode: "RGB" or "RGBA".
        background: colour under transparent parts, 0..255.
        size_hint: decode large JPEGs at reduced size (see `open_image`).

    Raises:
        DataError: the folder does not exist, holds no images, or nothing says what the images show.
    """
    root = Path(folder)
    if captions == "auto" and root.is_file() and root.suffix.lower() in TABLE_SUFFIXES:
        root, captions = root.parent, root
    paths = list_images(root)
    reading: dict[str, Any] = {"mode": mode, "background": background, "size_hint": size_hint}
    parts = _split_folders(root) if captions in ("auto", "txt", "folders", None) and _table(root) is None else {}
    if parts:
        if split is not None and split not in parts.values():
            raise UsageError(f"{root} has no split {split!r}, only {', '.join(sorted(set(parts.values())))}")
        chosen = {name: part for name, part in parts.items() if split in (None, part)}
        sets = [
            _prefixed(load_folder(root / name, captions=captions, template=template, **reading), name, part)
            for name, part in chosen.items()
        ]
        return join(sets)
    if not paths:
        raise DataError(f"{root}: no images in this folder ({_what_is_there(root)})")
    rows, skipped = _described(root, paths, captions, template)
    dataset = _dataset(root, rows, skipped, reading)
    if split is None:
        return dataset
    if "split" not in dataset.attributes:
        raise UsageError(f"{root} has no split {split!r}: neither subfolders train, val, test nor a column split")
    have = sorted({str(value) for value in dataset.attributes["split"] if value is not None})
    if split not in have:
        raise UsageError(f"{root} has no split {split!r}, only {', '.join(have)}")
    return dataset.where(split=split)


def _described(
    root: Path, paths: list[Path], captions: str | os.PathLike[str] | None, template: str
) -> tuple[list[_Row], list[tuple[str, str]]]:
    if captions is None:
        return [_Row(path, "", _key(root, path)) for path in paths], []
    if captions not in ("auto", "txt", "folders"):
        return _from_table(root, paths, Path(captions))
    if captions == "auto" and (table := _table(root)) is not None:
        return _from_table(root, paths, table)
    if captions == "txt" or (captions == "auto" and any(path.with_suffix(".txt").exists() for path in paths)):
        return _from_text_files(root, paths)
    if any(len(path.relative_to(root).parts) > 1 for path in paths):
        return _from_class_folders(root, paths, template)
    raise DataError(
        f"{root}: {len(paths)} images, but nothing says what they show: add captions.csv (columns file, caption), or "
        "a .txt file beside each image, or put them into folders named after their classes (captions=None takes them "
        "without)"
    )


def _dataset(root: Path, rows: list[_Row], skipped: list[tuple[str, str]], reading: dict[str, Any]) -> ImageTextDataset:
    usable = []
    for row in rows:
        reason = _unusable(row.path)
        if reason:
            skipped.append((row.where, reason))
        else:
            usable.append(row)
    if not usable:
        first = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise DataError(f"{root}: none of {len(skipped)} pictures can be used{first}")
    classes = sorted({row.label for row in usable if row.label is not None})
    position = {label: index for index, label in enumerate(classes)}
    names = dict.fromkeys(name for row in usable for name in row.attributes)
    return ImageTextDataset(
        [row.path for row in usable],
        [row.caption for row in usable],
        _unique([_key(root, row.path) for row in usable]),
        labels=[-1 if row.label is None else position[row.label] for row in usable],
        classes=classes,
        attributes={name: [row.attributes.get(name) for row in usable] for name in names},
        source=root.resolve().name,
        skipped=skipped,
        **reading,
    )


def _unusable(path: Path) -> str | None:
    """Why a picture cannot be used, as far as the file system tells; its content is judged when it is opened."""
    try:
        return None if os.stat(path).st_size else "empty file"
    except FileNotFoundError:
        return "no such file"
    except (OSError, ValueError) as error:
        return f"cannot be read ({getattr(error, 'strerror', None) or error})"


# --- 1. a table -------------------------------------------------------------------------------------------------------


def _table(root: Path) -> Path | None:
    tables = [p for p in sorted(root.iterdir()) if p.suffix.lower() in TABLE_SUFFIXES and not p.name.startswith(".")]
    for stem in ("captions", "metadata"):
        named = [path for path in tables if path.stem.lower() == stem]
        if len(named) > 1:
            raise DataError(f"{root}: {' and '.join(p.name for p in named)}: remove one, or name one with captions=")
        if named:
            return named[0]
    if len(tables) > 1:
        names = ", ".join(path.name for path in tables)
        raise DataError(f"{root}: several tables ({names}): call the right one captions.*, or name it with captions=")
    return tables[0] if tables else None


def _from_table(root: Path, paths: list[Path], table: Path) -> tuple[list[_Row], list[tuple[str, str]]]:
    table = table if table.exists() else root / table
    rows: list[_Row] = []
    skipped: list[tuple[str, str]] = []
    for where, record in _records(table):
        row = record if isinstance(record, str) else _row(table.parent, where, record)
        if isinstance(row, str):
            skipped.append((where, row))
        else:
            rows.append(row)
    told = {row.path.resolve() for row in rows}
    skipped += [(_key(root, path), f"no caption in {table.name}") for path in paths if path.resolve() not in told]
    return rows, skipped


def _records(table: Path) -> Iterator[tuple[str, dict[str, Any] | str]]:
    """(file:line, fields or what is wrong with the line) of every line of a CSV, TSV or JSONL file."""
    try:
        text = table.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{table}: no such file") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{table}: cannot be read ({error.strerror})") from error
    if not text.strip():
        raise DataError(f"{table}: is empty")
    if table.suffix.lower() in (".jsonl", ".ndjson"):
        yield from _json_records(table, text)
    else:
        yield from _csv_records(table, text)


def _json_records(table: Path, text: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        where = f"{table.name}:{number}"
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            yield where, f"not JSON ({error.msg})"
            continue
        if not isinstance(record, dict):
            yield where, "a line must be a JSON object, {...}"
        elif _first(record, FILE_COLUMNS) is None:
            yield where, f"no file: it has the fields {', '.join(record) or '(none)'}; needed is {FILE_COLUMNS[0]}"
        else:
            yield where, record


def _csv_records(table: Path, text: str) -> Iterator[tuple[str, dict[str, Any] | str]]:
    head = text.splitlines()[0]
    delimiter = "\t" if table.suffix.lower() == ".tsv" else max("\t;,|", key=head.count)
    delimiter = delimiter if delimiter in head else ","
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    header: list[str] | None = None
    for fields in lines:
        if not any(cell.strip() for cell in fields):
            continue
        if header is None:
            header = [cell.strip().lower() for cell in fields]
            if set(header) & set(FILE_COLUMNS):
                continue
            if Path(fields[0].strip()).suffix.lower() not in IMAGE_SUFFIXES:
                raise DataError(
                    f"{table}: no column of file names: the header is {', '.join(fields)}; it needs one of "
                    f"{', '.join(FILE_COLUMNS)}"
                )
            header = ["file", "caption", *(f"column{number}" for number in range(3, len(fields) + 1))]
        where = f"{table.name}:{lines.line_num}"
        if len(fields) != len(header):
            yield where, f"{len(fields)} fields where the header has {len(header)} (quote captions with {delimiter!r})"
        else:
            yield where, dict(zip(header, fields, strict=True))


def _row(base: Path, where: str, record: dict[str, Any]) -> _Row | str:
    record = {str(name).strip().lower(): value for name, value in record.items()}
    name_column, caption_column, label_column = (
        _first(record, columns) for columns in (FILE_COLUMNS, CAPTION_COLUMNS, LABEL_COLUMNS)
    )
    name = str(record.pop(name_column) if name_column else "").strip()
    if not name:
        return "no file name"
    caption: Any = record.pop(caption_column) if caption_column else None
    label = record.pop(label_column) if label_column else None
    label = None if label is None or not str(label).strip() else str(label).strip()
    several = record.pop(SEVERAL_COLUMN, None)
    if several is not None:
        record[SEVERAL_COLUMN] = _several(several)
    if isinstance(caption, list):
        texts = [_tidy(str(text)) for text in caption if _tidy(str(text))]
        record["captions"], caption = texts, texts[0] if texts else None
    caption = _tidy(str(caption)) if caption is not None else ""
    if not caption and label is not None and caption_column is None:
        caption = _readable(label)
    if not caption and several is not None and caption_column is None:
        caption = _readable(", ".join(record[SEVERAL_COLUMN])) or "none of the labels"
    if not caption:
        return f"{name}: no caption"
    attributes = {key: value for key, value in record.items() if value not in (None, "")}
    return _Row(base / name, caption, f"{where} {name}", label, attributes)


def _several(value: Any) -> list[str]:
    """The labels of one picture, without doubles, in the order written; an empty cell is a picture with none."""
    parts = value if isinstance(value, list) else str(value).replace("|", ";").split(";")
    return list(dict.fromkeys(_tidy(str(part)) for part in parts if _tidy(str(part))))


def _first(record: dict[str, Any], columns: tuple[str, ...]) -> str | None:
    lower = {str(name).strip().lower(): name for name in record}
    return next((lower[column] for column in columns if column in lower), None)


# --- 2. text files, 3. class folders ----------------------------------------------------------------------------------


def _from_text_files(root: Path, paths: list[Path]) -> tuple[list[_Row], list[tuple[str, str]]]:
    rows: list[_Row] = []
    skipped: list[tuple[str, str]] = []
    for path in paths:
        key, text_file = _key(root, path), path.with_suffix(".txt")
        try:
            texts = [_tidy(line) for line in text_file.read_text(encoding="utf-8-sig").splitlines() if _tidy(line)]
        except FileNotFoundError:
            skipped.append((key, f"no {text_file.name} beside it"))
            continue
        except UnicodeDecodeError:
            skipped.append((key, f"{text_file.name} is not UTF-8 text"))
            continue
        if not texts:
            skipped.append((key, f"{text_file.name} is empty"))
            continue
        attributes = {"captions": texts} if len(texts) > 1 else {}
        rows.append(_Row(path, texts[0], key, _class_of(root, path), attributes))
    return rows, skipped


def _from_class_folders(root: Path, paths: list[Path], template: str) -> tuple[list[_Row], list[tuple[str, str]]]:
    rows: list[_Row] = []
    skipped: list[tuple[str, str]] = []
    for path in paths:
        label = _class_of(root, path)
        if label is None:
            skipped.append((_key(root, path), "lies in no class folder"))
        else:
            rows.append(_Row(path, template.format(label), _key(root, path), label))
    return rows, skipped


def _class_of(root: Path, path: Path) -> str | None:
    parts = path.relative_to(root).parts
    return _readable(parts[0]) if len(parts) > 1 else None


def _readable(name: str) -> str:
    return _tidy(name.replace("_", " ").replace("-", " "))


def _tidy(text: str) -> str:
    return " ".join(text.split())


# --- splits, keys -----------------------------------------------------------------------------------------------------


def _split_folders(root: Path) -> dict[str, str]:
    """Subfolder -> split, if all subfolders are named after splits."""
    folders = [path.name for path in sorted(root.iterdir()) if path.is_dir() and not path.name.startswith(".")]
    if not folders or any(name.lower() not in SPLIT_FOLDERS for name in folders):
        return {}
    return {name: SPLIT_FOLDERS[name.lower()] for name in folders}


def _prefixed(dataset: ImageTextDataset, folder: str, split: str) -> ImageTextDataset:
    dataset.keys = [f"{folder}/{key}" for key in dataset.keys]
    dataset.skipped = [(f"{folder}/{key}", reason) for key, reason in dataset.skipped]
    dataset._known = {key for key, _ in dataset.skipped}
    dataset.attributes["split"] = [split] * len(dataset)
    return dataset


def _key(root: Path, path: Path) -> str:
    return Path(os.path.relpath(path, root)).as_posix()


def _unique(keys: list[str]) -> list[str]:
    """A picture listed several times (with several captions) gets #2, #3, ... after its name."""
    seen: Counter[str] = Counter()
    out = []
    for key in keys:
        seen[key] += 1
        out.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return out


def _what_is_there(root: Path) -> str:
    suffixes = Counter(path.suffix.lower() or "without suffix" for path in root.rglob("*") if path.is_file())
    return ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(3)) or "it is empty"
