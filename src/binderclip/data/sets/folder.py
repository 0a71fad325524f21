"""A folder or zip archive of images as a data set: captions from a table, COCO's, text files, or folder names."""

from __future__ import annotations

import os
import posixpath
from collections import Counter
from pathlib import Path
from typing import Any

from binderclip.data.formats.folder_rows import SPLIT_FOLDERS, FolderRow, described_rows, find_table
from binderclip.data.formats.tables import TABLE_SUFFIXES
from binderclip.data.formats.trees import FolderTree, Tree, ZipTree
from binderclip.data.images import WHITE, list_images
from binderclip.data.sets.dataset import ImageTextDataset, Mode, join
from binderclip.errors import DataError, UsageError

__all__ = ["list_images", "load_folder"]

_LONE = ("data", "dataset")
"""A folder of this name that holds everything is the data set itself, as Hugging Face lays it out."""


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
    if automatic and find_table(tree) is None:
        if len(tree.folders) == 1 and tree.folders[0].lower() in _LONE and all("/" in name for name in tree.images):
            return _load(tree.sub(tree.folders[0]), split, captions, template, reading)
        if parts := _split_folders(tree):
            return _load_splits(tree, parts, split, captions, template, reading)
    if not tree.images:
        left = f"; left out {tree.skipped[0][0]}: {tree.skipped[0][1]}" if tree.skipped else ""
        raise DataError(f"{tree.title}: no images in this folder ({_what_is_there(tree)}){left}")
    rows, skipped = described_rows(tree, captions, template)
    dataset = _dataset(tree, rows, [*tree.skipped, *skipped], reading)
    return dataset if split is None else take_split(dataset, split, tree.title)


def take_split(dataset: ImageTextDataset, split: str, title: str) -> ImageTextDataset:
    """The pictures of one split, with all that was skipped, whose split is often not known.

    Args:
        dataset: with an attribute `split`.
        split: its value.
        title: of the data set, for the message.

    Raises:
        UsageError: no picture is of this split; lists those that there are.
    """
    have = sorted({str(value) for value in dataset.attributes.get("split", []) if value is not None})
    if not have:
        raise UsageError(f"{title} has no split {split!r}: neither subfolders train, val, test nor a column split")
    if split not in have:
        raise UsageError(f"{title} has no split {split!r}, only {', '.join(have)}")
    chosen = dataset.where(split=lambda value: str(value) == split)
    for key, reason in dataset.skipped:
        chosen.skip(key, reason)
    return chosen


def _dataset(
    tree: Tree, rows: list[FolderRow], skipped: list[tuple[str, str]], reading: dict[str, Any]
) -> ImageTextDataset:
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


def _merged(rows: list[FolderRow]) -> list[FolderRow]:
    """One row a picture: rows of the same file, label and split are its several captions.

    An attribute in which they differ becomes a list, one value a row.
    """
    groups: dict[tuple[str, str | None, str], list[FolderRow]] = {}
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
        merged.append(FolderRow(first.name, captions, first.where, first.label, attributes))
    return merged


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
    for name, problem in left_out:
        dataset.skip(f"{name}/", str(problem))
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
