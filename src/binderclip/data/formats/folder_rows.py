"""What a folder says its pictures show: by a table, COCO's captions, text files, or the names of its folders."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from binderclip.data.formats.coco_captions import PICTURE_FOLDER, caption_files, coco_records, is_coco
from binderclip.data.formats.tables import (
    TABLE_SUFFIXES,
    Record,
    looks_like_table,
    parse_record,
    read_captions,
    read_json,
    readable,
    table_records,
)
from binderclip.data.formats.trees import FolderTree, Tree
from binderclip.errors import DataError

SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "shift": "shift",
}  # fmt: skip
_NAMED = ("captions", "metadata")


@dataclass
class FolderRow:
    """One picture as a folder describes it; `where` is what an error should name."""

    name: str
    captions: list[str]
    where: str
    label: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


class UndescribedPictures(DataError):
    """A folder has pictures, and nothing says what they show."""


Described: TypeAlias = tuple[list[FolderRow], list[tuple[str, str]]]


def described_rows(tree: Tree, captions: str | os.PathLike[str] | None, template: str) -> Described:
    """The rows of a folder, and (place, reason) of what was left out.

    Args:
        tree: the folder's files.
        captions, template: as for `load_folder`.

    Raises:
        DataError: nothing says what the pictures show, or what does cannot be read.
    """
    if captions is None:
        return [FolderRow(name, [""], name) for name in tree.images], []
    if captions not in ("auto", "txt", "folders"):
        return _from_named(tree, captions)
    if captions == "auto":
        if (table := find_table(tree)) is not None:
            return _from_records(tree, table_records(table, tree.read(table)), "", table)
        if files := caption_files(tree):
            return _from_coco(tree, files)
        if (beside := _coco_beside(tree)) is not None:
            return _from_named(tree, beside)
    if captions == "txt" or (captions == "auto" and any(_text_file(name) in tree for name in tree.images)):
        return _from_text_files(tree)
    if any("/" in name for name in tree.images):
        return _from_class_folders(tree, template)
    raise UndescribedPictures(
        f"{tree.title}: {len(tree.images)} images, but nothing says what they show: put them into folders named after "
        f"their classes ({tree.title}/cat/1.jpg), or add captions.csv (columns file, caption), or a .txt file beside "
        "each image; `binderclip embed --no-captions` takes pictures alone"
    )


# --- 1. a table -------------------------------------------------------------------------------------------------------


def find_table(tree: Tree) -> str | None:
    """The table directly in a folder that describes its pictures.

    Raises:
        DataError: there are several, and none is called captions or metadata.
    """
    tables = [name for name in tree.top if posixpath.splitext(name)[1].lower() in TABLE_SUFFIXES]
    named = [name for name in tree.top if _is_named_table(tree, name)]
    if len(named) > 1:
        named.sort(key=lambda name: _NAMED.index(_stem(name)))
        if _stem(named[0]) == _stem(named[1]):
            raise DataError(f"{tree.title}: {' and '.join(named)}: rename the one that does not count")
    if named:
        return named[0]
    if len(tables) > 1:
        names = ", ".join(tables)
        raise DataError(f"{tree.title}: several tables ({names}): call the right one captions.*")
    return tables[0] if tables else None


def _stem(name: str) -> str:
    return posixpath.splitext(posixpath.basename(name))[0].lower()


def _is_named_table(tree: Tree, name: str) -> bool:
    suffix = posixpath.splitext(name)[1].lower()
    if _stem(name) not in _NAMED:
        return False
    if suffix == ".txt":  # Flickr8k's captions.txt is a CSV; another may be the caption of captions.jpg
        return looks_like_table(tree.read(name))
    return suffix in (*TABLE_SUFFIXES, ".parquet")


def _from_named(tree: Tree, captions: str | os.PathLike[str]) -> Described:
    """A table or COCO file that was named, in the folder or anywhere else."""
    path = Path(captions)
    if not isinstance(tree, FolderTree):
        name = path.as_posix()
    else:
        name = tree.relative(path if path.exists() else tree.root / path)
    title = str(path if path.exists() or not isinstance(tree, FolderTree) else tree.root / path)
    try:
        data = tree.read(name)
    except DataError as error:
        raise DataError(f"{title}: {str(error).partition(': ')[2]}") from error
    if name.lower().endswith(".json"):
        try:
            coco = is_coco(read_json(data))
        except DataError as error:
            raise DataError(f"{title}: {error}") from error
        if coco:
            return _from_coco(tree, [name])
    return _from_records(tree, table_records(title, data), posixpath.dirname(name), name)


def _from_records(tree: Tree, records: Iterable[Record], base: str, table: str) -> Described:
    rows: list[FolderRow] = []
    skipped: list[tuple[str, str]] = []
    for where, record in records:
        row = record if isinstance(record, str) else _row(tree, base, where, record)
        if isinstance(row, str):
            skipped.append((where, row))
        else:
            rows.append(row)
    named = {row.name for row in rows}
    skipped += [(name, f"no caption in {posixpath.basename(table)}") for name in tree.images if name not in named]
    if not any("split" in row.attributes for row in rows):
        for row in rows:
            first = row.name.partition("/")[0].lower()
            if "/" in row.name and first in SPLIT_FOLDERS:
                row.attributes["split"] = SPLIT_FOLDERS[first]
    return rows, skipped


def _row(tree: Tree, base: str, where: str, record: dict[str, Any]) -> FolderRow | str:
    described = parse_record(record)
    if isinstance(described, str):
        return described
    name, captions, label, attributes = described
    if not name:
        return "no file name"
    if not captions:
        return f"{name}: no caption"
    number = name.rpartition("#")
    place = tree.find(name, base)
    if place not in tree and number[2].isdigit():  # Flickr8k.token.txt: a.jpg#0
        place = tree.find(number[0], base)
    return FolderRow(place, captions, f"{where} {name}", label, attributes)


# --- 2. COCO ----------------------------------------------------------------------------------------------------------


def _from_coco(tree: Tree, files: list[str]) -> Described:
    rows: list[FolderRow] = []
    skipped: list[tuple[str, str]] = []
    for file in files:
        described, problems = _from_records(tree, coco_records(tree, file), "", file)
        rows += described
        skipped += [(where, reason) for where, reason in problems if not reason.startswith("no caption in ")]
    named = {row.name for row in rows}
    names = " or ".join(posixpath.basename(file) for file in files)
    skipped += [(name, f"no caption in {names}") for name in tree.images if name not in named]
    return rows, skipped


def _coco_beside(tree: Tree) -> Path | None:
    """The caption file of a picture folder of COCO: `../annotations/captions_val2017.json` of `val2017`."""
    if not isinstance(tree, FolderTree) or not PICTURE_FOLDER.fullmatch(tree.source):
        return None
    above = tree.root.resolve().parent
    places = (folder / "annotations" / f"captions_{tree.source}.json" for folder in (above, above.parent))
    return next((place for place in places if place.is_file()), None)


# --- 3. text files, 4. class folders ----------------------------------------------------------------------------------


def _text_file(name: str) -> str:
    return posixpath.splitext(name)[0] + ".txt"


def _from_text_files(tree: Tree) -> Described:
    rows: list[FolderRow] = []
    skipped: list[tuple[str, str]] = []
    for name in tree.images:
        text_file = posixpath.basename(_text_file(name))
        if _text_file(name) not in tree:
            skipped.append((name, f"no {text_file} beside it"))
            continue
        try:
            texts = read_captions(tree.read(_text_file(name)).decode("utf-8-sig").splitlines())
        except UnicodeDecodeError:
            skipped.append((name, f"{text_file} is not UTF-8 text"))
            continue
        except DataError as error:
            skipped.append((name, f"{text_file} {str(error).partition(': ')[2]}"))
            continue
        if not texts:
            skipped.append((name, f"{text_file} is empty"))
            continue
        attributes = {"captions": texts} if len(texts) > 1 else {}
        rows.append(FolderRow(name, texts, name, _class_of(name), attributes))
    return rows, skipped


def _from_class_folders(tree: Tree, template: str) -> Described:
    rows: list[FolderRow] = []
    skipped: list[tuple[str, str]] = []
    for name in tree.images:
        label = _class_of(name)
        if label is None:
            skipped.append((name, "lies in no class folder"))
        else:
            rows.append(FolderRow(name, [template.format(label)], name, label))
    splits = [folder for folder in tree.folders if PICTURE_FOLDER.fullmatch(folder)]
    if splits:
        raise DataError(
            f"{tree.title}: {', '.join(splits)} are parts of COCO and no classes, and nothing says what the pictures "
            f"show: add annotations/captions_{splits[0]}.json"
        )
    return rows, skipped


def _class_of(name: str) -> str | None:
    first, slash, _ = name.partition("/")
    return readable(first) if slash else None
