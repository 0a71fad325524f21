"""What `duplicates` does: what is kept of every picture, groups of copies, and the lists of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from binderclip.errors import DataError, UsageError
from binderclip.files import write_whole
from binderclip.search.duplicates.alignment import AlikePairs, alike_pairs
from binderclip.search.duplicates.fingerprint import Fingerprint, fingerprint_of
from binderclip.search.duplicates.grouping import complete_groups
from binderclip.tasks.events import Counted, counted, emit, start
from binderclip.tasks.files.inputs import find_images, skip_pictures
from binderclip.tasks.files.outputs import output_folder, real_path, writable_paths
from binderclip.tasks.files.writing import write_csv, write_json
from binderclip.tasks.verbs.duplicates.report import write_report
from binderclip.tasks.verbs.duplicates.request import DuplicatesRequest
from binderclip.tasks.verbs.duplicates.result import (
    COLUMNS,
    DOCUMENT,
    NEAR,
    REMOVE,
    REPORT,
    SAME_BYTES,
    SAME_PIXELS,
    TABLE,
    CopyRelation,
    DuplicateGroup,
    Duplicates,
)

READERS, READ_AT_ONCE = 4, 64
"""Threads that open pictures, and pictures between two looks at whether the work is to stop."""
MOST_RELATED = 50
"""Pictures of a group of which all pairs are listed: of 2,000 empty pages there would be two million."""
ORDERS: Mapping[str, Callable[[Fingerprint], Any]] = {
    "largest": lambda each: (-each.width * each.height, -each.bytes, -each.sharpness),
    "sharpest": lambda each: (-each.sharpness, -each.width * each.height, -each.bytes),
    "oldest": lambda each: (each.date, -each.width * each.height, -each.bytes),
    "newest": lambda each: (-each.date.timestamp(), -each.width * each.height, -each.bytes),
}
"""Rule -> what the pictures of a group are sorted by, before their paths; the first stays."""


def run(request: DuplicatesRequest) -> Duplicates:
    """Look for duplicates, and write the lists.

    Raises:
        UsageError: no such file or folder, a file that would be replaced and is none of ours, or a `kept_folder` that
            has something in it or lies among the pictures.
        DataError: no picture can be read.
    """
    inputs = find_images(request.images, without=request.out)
    folder = output_folder(request.out, make=False)
    writable_paths([folder / DOCUMENT, folder / REPORT], sources=inputs.paths)
    writable_paths([folder / TABLE], columns=COLUMNS)
    writable_paths([folder / REMOVE], beside=folder / DOCUMENT)
    if request.kept_folder is not None:
        _check_kept(request.kept_folder, request.images)
    start("reading pictures")
    prints, skipped = _read(inputs.paths)
    skip_pictures(skipped, left=prints)
    least = request.similarity if request.near else None
    groups = grouped(prints, keep=request.keep, similarity=least, crops=request.crops)
    result = Duplicates(request, groups, len(prints), 0, skipped, not inputs.exit_code(skipped))
    # Before anything is copied: a full disk there costs no list.
    _write(result, output_folder(request.out))
    if request.kept_folder is None:
        return result
    removed = {each.path for each in result.removed}
    kept = [each.path for each in prints if each.path not in removed]
    return replace(result, copied=copy_kept(kept, request.images, request.kept_folder))


def _read(paths: Sequence[Path]) -> tuple[list[Fingerprint], list[tuple[str, str]]]:
    """What is kept of each picture, and (path, reason) of those that cannot be read."""
    prints: list[Fingerprint] = []
    skipped: list[tuple[str, str]] = []

    def one(path: Path) -> Fingerprint | tuple[str, str]:
        try:
            return fingerprint_of(path)
        except DataError as error:
            return str(path), str(error)

    with ThreadPoolExecutor(READERS) as readers:
        for begin in range(0, len(paths), READ_AT_ONCE):
            for each in readers.map(one, paths[begin : begin + READ_AT_ONCE]):
                prints.append(each) if isinstance(each, Fingerprint) else skipped.append(each)
            emit(Counted(min(begin + READ_AT_ONCE, len(paths)), len(paths), "picture"))
    return prints, skipped


def grouped(
    prints: Sequence[Fingerprint], *, keep: str, similarity: float | None, crops: float
) -> list[DuplicateGroup]:
    """Groups of copies, the one to be kept first.

    Args:
        prints: of the pictures.
        keep: one of `ORDERS`.
        similarity: least agreement of near-duplicates; None for the same pixels alone.
        crops: least share of a picture's area that a cropped copy keeps.
    """
    by_pixels: dict[str, list[int]] = {}
    for row, each in enumerate(prints):
        by_pixels.setdefault(each.pixels_hash, []).append(row)
    # Of pictures with the same pixels one is compared with the others.
    classes = list(by_pixels.values())
    pairs = AlikePairs(np.empty(0, int), np.empty(0, int), np.empty(0))
    if similarity is not None and len(classes) > 1:
        start("comparing")
        copies = np.stack([prints[rows[0]].copy for rows in classes])
        pairs = alike_pairs(
            copies,
            least=similarity,
            kept=crops,
            progress=lambda done, total: emit(Counted(done, total, "comparison")),
        )
    near = complete_groups(pairs, len(classes), least=similarity or 1.0)
    among = {each for group in near for each in group.tolist()}
    alone = [[place] for place, rows in enumerate(classes) if place not in among and len(rows) > 1]
    agreements = zip(pairs.first.tolist(), pairs.second.tolist(), pairs.agreement.tolist(), strict=True)
    known = {(first, second): value for first, second, value in agreements}
    groups = []
    for places in sorted([*(group.tolist() for group in near), *alone], key=lambda places: classes[places[0]][0]):
        members = [(place, prints[row]) for place in places for row in classes[place]]
        members.sort(key=lambda each: (ORDERS[keep](each[1]), str(each[1].path)))
        groups.append(DuplicateGroup([each for _, each in members], list(_relations(members, known))))
    return groups


def _relations(
    members: Sequence[tuple[int, Fingerprint]], known: Mapping[tuple[int, int], float]
) -> Iterator[CopyRelation]:
    """Of the first with each other one, and in a group that is not too large of all."""
    rest = range(1, len(members))
    for a, b in combinations(range(len(members)), 2) if len(members) <= MOST_RELATED else ((0, b) for b in rest):
        (place, first), (other, second) = members[a], members[b]
        if place != other:
            yield CopyRelation(a, b, known[min(place, other), max(place, other)], NEAR)
        else:
            yield CopyRelation(a, b, 1.0, SAME_BYTES if first.bytes_hash == second.bytes_hash else SAME_PIXELS)


def _check_kept(given: str, images: Sequence[str]) -> None:
    """Refuse a folder in which something would be replaced or mixed, or that the next run would read."""
    folder = output_folder(given, make=False)
    if folder.is_dir() and any(folder.iterdir()):
        raise UsageError(f"--kept-folder {given} has something in it: give a new or an empty folder")
    for image in images:
        if Path(image).is_dir() and real_path(given).is_relative_to(real_path(image)):
            raise UsageError(f"--kept-folder {given} lies inside {image}: give a folder outside of it")


def copy_kept(paths: Sequence[Path], images: Sequence[str], folder: str | Path) -> int:
    """Copy pictures into a folder, each at its place below the folder that was named; the number of them.

    Args:
        paths: of the pictures. images: files and folders as they were named.
        folder: new or empty.

    Raises:
        OutputError: one cannot be written.
    """
    place = output_folder(folder)
    roots = [Path(image) for image in images if Path(image).is_dir()]
    used: set[Path] = set()
    for path in counted(paths, "copy", len(paths)):
        root = next((root for root in roots if path.is_relative_to(root)), path.parent)
        below = path.relative_to(root)
        target, number = place / below, 1
        # Of several folders or files two may share a name.
        while target in used:
            number += 1
            target = place / below.with_name(f"{below.stem}-{number}{below.suffix}")
        used.add(target)
        output_folder(target.parent)
        write_whole(target, lambda draft, path=path: shutil.copy2(path, draft), sync=False)  # type: ignore[misc]
    return len(paths)


def _write(result: Duplicates, folder: Path) -> None:
    """The document first: it says whose the list beside it is, which has no place for it."""
    write_json(result.as_dict(), folder / DOCUMENT)
    write_csv(COLUMNS, result.rows(), folder / TABLE)
    write_whole(folder / REMOVE, "".join(f"{path}\n" for path in result.listed))
    write_report(result, folder / REPORT)
