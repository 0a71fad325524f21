"""A folder or zip archive of images as a data set: captions from a table, COCO's, text files, or folder names."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from binderclip.data.coco_captions import PICTURE_FOLDER, caption_files, coco_records, is_coco
from binderclip.data.dataset import ImageTextDataset, Mode, join
from binderclip.data.files import not_unicode
from binderclip.data.images import WHITE, list_images
from binderclip.data.tables import (
    CAPTION_COLUMNS,
    FILE_COLUMNS,
    LABEL_COLUMNS,
    TABLE_SUFFIXES,
    Record,
    first_column,
    looks_like_table,
    read_captions,
    read_json,
    records,
)
from binderclip.data.trees import FolderTree, Tree, ZipTree
from binderclip.errors import DataError, UsageError

__all__ = ["list_images", "load_folder"]

SEVERAL_COLUMN = "labels"
SPLIT_FOLDERS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test", "shift": "shift",
}  # fmt: skip
_NAMED = ("captions", "metadata")
_LONE = ("data", "dataset")
"""A folder of this name that holds everything is the data set itself, as Hugging Face lays it out."""


@dataclass
class _Row:
    """One picture as a folder describes it; `where` is what an error should name."""

    name: str
    captions: list[str]
    where: str
    label: str | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


_Described = tuple[list[_Row], list[tuple[str, str]]]


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
    """Open a folder of images with captions, or a zip archive of one (which is not unpacked).

    Captions come from the first of these that is there:

    1. a table in the folder: CSV, TSV, JSONL, or `metadata.parquet` (`captions.*`, `metadata.*`, or the only one there
       is) with a column file_name, file, filename, image or path, and a column caption or text; optional label and
       split; all others become attributes. A column `labels` holds several labels a picture, separated by `;` or `|`
       (in JSONL a list), and becomes an attribute of lists. A table without a header has the file first and the
       caption second.
    2. COCO captions: `annotations/captions_val2017.json` beside `val2017/` or `images/val2017/`.
    3. `name.txt` beside `name.jpg`, one caption a line.
    4. folders named after classes: the class is the label, and the caption with dashes and underscores as spaces.

    A picture may have several captions: several rows of a table, a list in one, several lines of text. It is one
    picture then, its `caption` is the first and its attribute `captions` lists all; evaluation asks for each of them,
    and training shows one of them in each pass.

    Class folders give labels under 3 as well. Subfolders named train, val and test are the splits, also where one table
    beside them describes all. A picture without a file, a caption or readable content is entered in `skipped` with the
    reason, never silently left out.

    Args:
        folder: where the images are; they may lie in subfolders. The path of a table stands for its folder.
        split: "train", "val", "test", or None for everything.
        captions: "auto"; the path of a table or COCO file; "txt"; "folders"; or None for pictures without captions.
        template: makes a caption of a class name: "a photo of a {}".
        mode: "RGB" or "RGBA".
        background: colour under transparent parts, 0..255.
        size_hint: decode large JPEGs at reduced size (see `open_image`).

    Raises:
        DataError: the folder does not exist, holds no images, or nothing says what the images show.
    """
    root = Path(folder)
    if captions == "auto" and root.is_file() and root.suffix.lower() in (*TABLE_SUFFIXES, ".json", ".parquet", ".txt"):
        root, captions = root.parent.parent if root.parent.name == "annotations" else root.parent, root
    tree: Tree = ZipTree(root).unpacked() if root.is_file() and root.suffix.lower() == ".zip" else FolderTree(root)
    reading: dict[str, Any] = {"mode": mode, "background": background, "size_hint": size_hint}
    return _load(tree, split, captions, template, reading)


def _load(
    tree: Tree, split: str | None, captions: str | os.PathLike[str] | None, template: str, reading: dict[str, Any]
) -> ImageTextDataset:
    automatic = captions in ("auto", "txt", "folders", None)
    if automatic and _table(tree) is None:
        if len(tree.folders) == 1 and tree.folders[0].lower() in _LONE and all("/" in name for name in tree.images):
            return _load(tree.sub(tree.folders[0]), split, captions, template, reading)
        if parts := _split_folders(tree):
            return _load_splits(tree, parts, split, captions, template, reading)
    if not tree.images:
        left = f"; left out {tree.skipped[0][0]}: {tree.skipped[0][1]}" if tree.skipped else ""
        raise DataError(f"{tree.title}: no images in this folder ({_what_is_there(tree)}){left}")
    rows, skipped = _described(tree, captions, template)
    dataset = _dataset(tree, rows, [*tree.skipped, *skipped], reading)
    if split is None:
        return dataset
    if "split" not in dataset.attributes:
        raise UsageError(f"{tree.title} has no split {split!r}: neither subfolders train, val, test nor a column split")
    have = sorted({str(value) for value in dataset.attributes["split"] if value is not None})
    if split not in have:
        raise UsageError(f"{tree.title} has no split {split!r}, only {', '.join(have)}")
    return dataset.where(split=split)


def _described(tree: Tree, captions: str | os.PathLike[str] | None, template: str) -> _Described:
    if captions is None:
        return [_Row(name, [""], name) for name in tree.images], []
    if captions not in ("auto", "txt", "folders"):
        return _from_named(tree, captions)
    if captions == "auto":
        if (table := _table(tree)) is not None:
            return _from_records(tree, records(table, tree.read(table)), "", table)
        if files := caption_files(tree):
            return _from_coco(tree, files)
        if (beside := _coco_beside(tree)) is not None:
            return _from_named(tree, beside)
    if captions == "txt" or (captions == "auto" and any(_text_file(name) in tree for name in tree.images)):
        return _from_text_files(tree)
    if any("/" in name for name in tree.images):
        return _from_class_folders(tree, template)
    raise DataError(
        f"{tree.title}: {len(tree.images)} images, but nothing says what they show: add captions.csv (columns file, "
        "caption), or a .txt file beside each image, or put them into folders named after their classes (captions=None "
        "takes them without)"
    )


def _dataset(tree: Tree, rows: list[_Row], skipped: list[tuple[str, str]], reading: dict[str, Any]) -> ImageTextDataset:
    usable = []
    for row in rows:
        reason = tree.unusable(row.name)
        if reason:
            skipped.append((row.where, reason))
        else:
            usable.append(row)
    usable = _merged(usable)
    if not usable:
        first = f"; {skipped[0][0]}: {skipped[0][1]}" if skipped else ""
        raise DataError(f"{tree.title}: none of {len(skipped)} pictures can be used{first}")
    classes = sorted({row.label for row in usable if row.label is not None})
    position = {label: index for index, label in enumerate(classes)}
    names = dict.fromkeys(name for row in usable for name in row.attributes)
    return ImageTextDataset(
        tree.pictures([row.name for row in usable]),
        [row.captions[0] for row in usable],
        unique_keys([row.name for row in usable]),
        labels=[-1 if row.label is None else position[row.label] for row in usable],
        classes=classes,
        attributes={name: [row.attributes.get(name) for row in usable] for name in names},
        source=tree.source,
        skipped=skipped,
        **reading,
    )


def _merged(rows: list[_Row]) -> list[_Row]:
    """One row a picture: rows of the same file, label and split are its several captions.

    An attribute in which they differ becomes a list, one value a row.
    """
    groups: dict[tuple[str, str | None, str], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row.name, row.label, str(row.attributes.get("split"))), []).append(row)
    merged = []
    for first, *others in groups.values():
        captions = [text for row in (first, *others) for text in row.captions]
        attributes = dict(first.attributes)
        for name in dict.fromkeys(name for row in others for name in row.attributes):
            values = [row.attributes.get(name) for row in (first, *others)]
            attributes[name] = values[0] if all(value == values[0] for value in values) else values
        if len(captions) > 1:
            attributes["captions"] = captions
        merged.append(_Row(first.name, captions, first.where, first.label, attributes))
    return merged


# --- 1. a table -------------------------------------------------------------------------------------------------------


def _table(tree: Tree) -> str | None:
    tables = [name for name in tree.top if posixpath.splitext(name)[1].lower() in TABLE_SUFFIXES]
    named = [name for name in tree.top if _is_named_table(tree, name)]
    if len(named) > 1:
        named.sort(key=lambda name: _NAMED.index(_stem(name)))
        if _stem(named[0]) == _stem(named[1]):
            raise DataError(f"{tree.title}: {' and '.join(named)}: remove one, or name one with captions=")
    if named:
        return named[0]
    if len(tables) > 1:
        names = ", ".join(tables)
        raise DataError(
            f"{tree.title}: several tables ({names}): call the right one captions.*, or name it with captions="
        )
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


def _from_named(tree: Tree, captions: str | os.PathLike[str]) -> _Described:
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
    return _from_records(tree, records(title, data), posixpath.dirname(name), name)


def _from_records(tree: Tree, found: Iterable[Record], base: str, table: str) -> _Described:
    rows: list[_Row] = []
    skipped: list[tuple[str, str]] = []
    for where, record in found:
        row = record if isinstance(record, str) else _row(tree, base, where, record)
        if isinstance(row, str):
            skipped.append((where, row))
        else:
            rows.append(row)
    told = {row.name for row in rows}
    skipped += [(name, f"no caption in {posixpath.basename(table)}") for name in tree.images if name not in told]
    if not any("split" in row.attributes for row in rows):
        for row in rows:
            first = row.name.partition("/")[0].lower()
            if "/" in row.name and first in SPLIT_FOLDERS:
                row.attributes["split"] = SPLIT_FOLDERS[first]
    return rows, skipped


def _row(tree: Tree, base: str, where: str, record: dict[str, Any]) -> _Row | str:
    described = describe(record)
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
    return _Row(place, captions, f"{where} {name}", label, attributes)


def describe(record: dict[str, Any]) -> tuple[str, list[str], str | None, dict[str, Any]] | str:
    """(file name, captions, label, attributes) of one record of a table, or what is wrong with it.

    Without captions they are made of the label, or of several labels; there may be none of all of these.
    """
    record = {str(name).strip().lower(): value for name, value in record.items()}
    name_column, caption_column, label_column = (
        first_column(record, columns) for columns in (FILE_COLUMNS, CAPTION_COLUMNS, LABEL_COLUMNS)
    )
    if caption_column is None and label_column is None:
        caption_column = first_column(record, ("comment",))  # Flickr30k's results.csv; elsewhere a remark
    name = str((record.pop(name_column) if name_column else "") or "").strip()
    told = record.pop(caption_column) if caption_column else None
    captions = read_captions(told)
    label = record.pop(label_column) if label_column else None
    label = None if label is None or not str(label).strip() else str(label).strip()
    several = record.pop(SEVERAL_COLUMN, None)
    if several is not None:
        record[SEVERAL_COLUMN] = _several(several)
    if not captions and label is not None and caption_column is None:
        captions = [readable(label)]
    if not captions and several is not None and caption_column is None:
        captions = [readable(", ".join(record[SEVERAL_COLUMN])) or "none of the labels"]
    if "\0" in name:
        return "a file name with a NUL byte"
    if any(not_unicode(text) for text in (name, label or "", *captions)):
        return f"{name.encode('utf-8', 'backslashreplace').decode()}: not Unicode text"
    attributes = {key: value for key, value in record.items() if value is not None and not _is_empty(value)}
    if len(captions) > 1:
        attributes["captions"] = captions
    return name, captions, label, attributes


def _is_empty(value: Any) -> bool:
    return isinstance(value, str) and not value


def _several(value: Any) -> list[str]:
    """The labels of one picture, without doubles, in the order written; an empty cell is a picture with none."""
    parts = value if isinstance(value, list) else str(value).replace("|", ";").split(";")
    return list(dict.fromkeys(_tidy(str(part)) for part in parts if _tidy(str(part))))


# --- 2. COCO ----------------------------------------------------------------------------------------------------------


def _from_coco(tree: Tree, files: list[str]) -> _Described:
    rows: list[_Row] = []
    skipped: list[tuple[str, str]] = []
    for file in files:
        found, problems = _from_records(tree, coco_records(tree, file), "", file)
        rows += found
        skipped += [(where, reason) for where, reason in problems if not reason.startswith("no caption in ")]
    told = {row.name for row in rows}
    names = " or ".join(posixpath.basename(file) for file in files)
    skipped += [(name, f"no caption in {names}") for name in tree.images if name not in told]
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


def _from_text_files(tree: Tree) -> _Described:
    rows: list[_Row] = []
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
        rows.append(_Row(name, texts, name, _class_of(name), attributes))
    return rows, skipped


def _from_class_folders(tree: Tree, template: str) -> _Described:
    rows: list[_Row] = []
    skipped: list[tuple[str, str]] = []
    for name in tree.images:
        label = _class_of(name)
        if label is None:
            skipped.append((name, "lies in no class folder"))
        else:
            rows.append(_Row(name, [template.format(label)], name, label))
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


def readable(name: str) -> str:
    """The name of a class or folder as words: dashes and underscores are spaces."""
    return _tidy(name.replace("_", " ").replace("-", " "))


def _tidy(text: str) -> str:
    return " ".join(text.split())


# --- splits, keys -----------------------------------------------------------------------------------------------------


def _split_folders(tree: Tree) -> dict[str, str]:
    """Subfolder -> split, if all subfolders are named after splits."""
    if not tree.folders or any(name.lower() not in SPLIT_FOLDERS for name in tree.folders):
        return {}
    return {name: SPLIT_FOLDERS[name.lower()] for name in tree.folders}


def _load_splits(
    tree: Tree,
    parts: dict[str, str],
    split: str | None,
    captions: str | os.PathLike[str] | None,
    template: str,
    reading: dict[str, Any],
) -> ImageTextDataset:
    if split is not None and split not in parts.values():
        raise UsageError(f"{tree.title} has no split {split!r}, only {', '.join(sorted(set(parts.values())))}")
    chosen = {name: part for name, part in parts.items() if split in (None, part)}
    sets, left_out = [], []
    for name, part in chosen.items():
        try:
            sets.append(_prefixed(_load(tree.sub(name), None, captions, template, reading), name, part))
        except DataError as error:
            # Test pictures without captions are common, and no reason to refuse the ones for training.
            left_out.append((name, error))
    if not sets:
        raise left_out[0][1]
    dataset = join(sets)
    for name, error in left_out:
        dataset.skip(f"{name}/", str(error))
    for name in tree.images:
        if "/" not in name:
            dataset.skip(name, "lies in no folder of a split")
    for name, reason in tree.skipped:
        if name.partition("/")[0] not in parts:
            dataset.skip(name, reason)
    return dataset


def _prefixed(dataset: ImageTextDataset, folder: str, split: str) -> ImageTextDataset:
    dataset.keys = [f"{folder}/{key}" for key in dataset.keys]
    dataset.skipped = [(f"{folder}/{key}", reason) for key, reason in dataset.skipped]
    dataset._known = {key for key, _ in dataset.skipped}
    dataset.attributes["split"] = [split] * len(dataset)
    return dataset


def unique_keys(keys: list[str]) -> list[str]:
    """A picture that is there several times (in two splits, say) gets #2, #3, ... after its name."""
    seen: Counter[str] = Counter()
    out = []
    for key in keys:
        seen[key] += 1
        out.append(key if seen[key] == 1 else f"{key}#{seen[key]}")
    return out


def _what_is_there(tree: Tree) -> str:
    suffixes = Counter(posixpath.splitext(name)[1].lower() or "without suffix" for name in tree.files)
    return ", ".join(f"{count} {suffix}" for suffix, count in suffixes.most_common(3)) or "it is empty"
