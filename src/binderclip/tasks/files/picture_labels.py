"""One label a picture as files: a table and folders that `binderclip adapt` reads, COCO for other programs."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from binderclip.display import number_of
from binderclip.documents import read_problem
from binderclip.errors import DataError, UsageError
from binderclip.tasks.files.writing import write_csv

COLUMNS = ("file", "label", "by")
"""Of the table; `by` is `person` or `model`."""
TABLE = "labels.csv"
_MOST_BYTES = 120
"""Of a folder's name."""


class PictureLabel(NamedTuple):
    """The label of a picture.

    Args:
        path: where the picture is. name: what the files call it, relative, with / between folders.
        label: one of the classes. by_person: whether a person gave or confirmed it.
    """

    path: Path
    name: str
    label: str
    by_person: bool = True


def with_unique_names(labels: Iterable[PictureLabel]) -> list[PictureLabel]:
    """The same with a number behind names that occur again: `01.png`, `01-2.png`."""
    taken: set[str] = set()
    unique = []
    for each in labels:
        stem, suffix = os.path.splitext(each.name)
        name, number = each.name, 1
        while name.casefold() in taken:
            number += 1
            name = f"{stem}-{number}{suffix}"
        taken.add(name.casefold())
        unique.append(each._replace(name=name))
    return unique


def write_label_table(labels: Sequence[PictureLabel], path: Path) -> None:
    """Write file, label and who said so as CSV; beside the pictures it is the data of `binderclip adapt`.

    Raises:
        OutputError: it cannot be written; what was there before still is.
    """
    write_csv(COLUMNS, [(each.name, each.label, "person" if each.by_person else "model") for each in labels], path)


def coco_labels(labels: Sequence[PictureLabel], classes: Sequence[str]) -> dict[str, Any]:
    """COCO's document of image-level labels: images, categories, and an annotation without a box for each image.

    Args:
        labels: of the pictures; images and annotations are numbered from 1 in their order.
        classes: names; category ids count from 1.

    Raises:
        UsageError: a label that is no class.
        DataError: a picture whose size cannot be read.
    """
    place = {name: number for number, name in enumerate(classes, 1)}
    if (odd := next((each for each in labels if each.label not in place), None)) is not None:
        raise UsageError(f"{odd.name} has the label {odd.label}, which is none of {', '.join(classes)}")
    images, annotations = [], []
    for number, each in enumerate(labels, 1):
        width, height = _size(each.path)
        images.append({"id": number, "file_name": each.name, "width": width, "height": height})
        annotations.append({"id": number, "image_id": number, "category_id": place[each.label]})
    categories = [{"id": number, "name": name} for name, number in place.items()]
    return {"images": images, "annotations": annotations, "categories": categories}


def write_label_folders(labels: Sequence[PictureLabel], folder: Path) -> list[Path]:
    """Put the pictures into a folder for each label, as torchvision's ImageFolder reads them, with the table beside.

    A label that cannot be the name of a folder gets a similar one; the table has the label itself, which is what
    `load_folder` reads. Pictures are linked where that is possible, else copied: no original is touched.

    Args:
        labels: of the pictures. folder: made anew; it may not be there.

    Returns:
        The files, the table first.

    Raises:
        UsageError: the folder is there already.
        DataError: a picture is gone or cannot be copied.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{folder} is there already: name a new folder") from None
    folders = folder_names(each.label for each in labels)
    # Inside a label's folder a picture has its own name alone: folders in folders are not read by all programs.
    placed = with_unique_names(
        each._replace(name=f"{folders[each.label]}/{each.name.rpartition('/')[2]}") for each in labels
    )
    for each in placed:
        place = folder / each.name
        place.parent.mkdir(exist_ok=True)
        try:
            _linked(each.path, place)
        except OSError as error:
            raise DataError(f"{each.path.name} cannot be copied: {error.strerror or error}") from error
    write_label_table(placed, folder / TABLE)
    return [folder / TABLE, *(folder / each.name for each in placed)]


def folder_names(labels: Iterable[str]) -> dict[str, str]:
    """A folder's name for each label: no part of a path, none that means a split of the data, each once."""
    from binderclip.data.formats.folder_rows import SPLIT_FOLDERS

    names: dict[str, str] = {}
    taken: set[str] = set()
    for label in dict.fromkeys(labels):
        kept = "".join(c if c.isprintable() and c not in '/\\<>:"|?*' else "_" for c in label)
        kept = re.sub(r"^[.\s]+", "", kept).encode()[:_MOST_BYTES].decode(errors="ignore").rstrip(" .") or "label"
        if kept.lower() in SPLIT_FOLDERS:
            kept += "-label"
        name, number = kept, 1
        while name.casefold() in taken:
            number += 1
            name = f"{kept}-{number}"
        taken.add(name.casefold())
        names[label] = name
    return names


def read_labels(path: Path) -> dict[str, str]:
    """File -> label of a table with columns such as `file` and `label`: CSV, TSV or JSON lines.

    Raises:
        UsageError: there is no such file.
        DataError: it is no such table, or gives a file two labels.
    """
    from binderclip.data.formats.tables import parse_record, table_records

    if not path.is_file():
        raise UsageError(f"there is no file {path}: give a table with the columns file and label")
    labels: dict[str, str] = {}
    try:
        records = list(table_records(str(path), path.read_bytes()))
    except OSError as error:
        raise DataError(f"{path}: {read_problem(error)}") from error
    for where, record in records:
        row = record if isinstance(record, str) else parse_record(record)
        if isinstance(row, str):
            raise DataError(f"{path}, {where}: {row}")
        name, _, label, _ = row
        if not name or label is None:
            raise DataError(f"{path}, {where}: needs a file and a label")
        if labels.setdefault(name, label) != label:
            raise DataError(f"{path}: {name} is labelled {labels[name]} and {label}")
    if not labels:
        raise DataError(f"{path} holds no label: give lines of file,label below that header")
    return labels


def match_labels(paths: Sequence[Path], labels: Mapping[str, str]) -> dict[int, str]:
    """Row -> label of the pictures that a table names: by their path, else by the end of it.

    Args:
        paths: of the pictures. labels: file -> label.

    Raises:
        DataError: a name that fits several of the pictures.
    """
    ends = {Path(name).parts: name for name in labels}
    rows: dict[int, str] = {}
    used: dict[str, Path] = {}
    for row, path in enumerate(paths):
        # The longest match is the most particular one.
        for start in range(len(path.parts)):
            if (name := ends.get(path.parts[start:])) is not None:
                if name in used:
                    raise DataError(f"{name} may be {used[name]} or {path}: write its folder with it")
                used[name], rows[row] = path, labels[name]
                break
    return rows


def unmatched(labels: Mapping[str, str], rows: Mapping[int, str], table: Path) -> str:
    """A sentence on lines that name none of the pictures; empty where all do."""
    missing = len(labels) - len(rows)
    return f"{number_of(missing, 'line')} of {table} name none of the pictures" if missing else ""


def _linked(source: Path, place: Path) -> None:
    try:
        os.link(source.resolve(), place)
    except OSError:  # another file system
        shutil.copyfile(source, place)


def _size(path: Path) -> tuple[int, int]:
    """(width, height) as the file has it, from its header."""
    from binderclip.data.images import open_header

    try:
        with open_header(path) as picture:
            width, height = picture.size
    except Exception as error:
        raise DataError(f"{path.name} is not a picture that can be read") from error
    return width, height
