"""Regions from the command line: boxes in JSON or CSV, masks in PNG, one box as an option."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from binderclip.display import number_of
from binderclip.documents import parse_json
from binderclip.errors import DataError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from binderclip.adapt import Region

COLUMNS = ("x0", "y0", "x1", "y1")
FORMS = 'lines "x0,y0,x1,y1[,name]", or JSON such as [[x0, y0, x1, y1], {"box": [x0, y0, x1, y1], "name": "left"}]'


def parse_box(text: str, option: str = "--box") -> Region:
    """The region of `--box x0,y0,x1,y1`.

    Raises:
        UsageError: not four numbers, or an empty box.
    """
    from binderclip.adapt import Region

    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
        return Region((x0, y0, x1, y1))
    except ValueError as error:
        reason = f": {error}" if isinstance(error, UsageError) else ""
        raise UsageError(
            f"{option} {text!r} must be x0,y0,x1,y1 in pixels, such as {option} 20,10,120,90{reason}"
        ) from None


def read_regions(boxes: str | None, masks: Sequence[str], size: tuple[int, int]) -> list[Region]:
    """The regions of `--boxes` and `--masks`, checked against the image.

    Args:
        boxes: a file of boxes, or None.
        masks: a label map, or one PNG a region, or a folder of them.
        size: (h, w) of the image.

    Raises:
        UsageError: neither is given, a file is missing, counts or sizes do not match, a region outside the image.
        DataError: a file that holds something else.
    """
    from binderclip.adapt import Region

    if boxes is None and not masks:
        raise UsageError(f"give --boxes FILE ({FORMS}) or --masks")
    regions = [] if boxes is None else read_boxes(Path(boxes), size)
    if not masks:
        return regions
    areas = read_masks(masks, size)
    if not regions:
        return [Region(mask=mask, name=name) for name, mask in areas]
    if len(areas) != len(regions):
        raise UsageError(
            f"--masks has {number_of(len(areas), 'region')} and --boxes {len(regions)}: one mask for each box is wanted"
        )
    pairs = zip(regions, areas, strict=True)
    return [replace(region, mask=mask, name=region.name or name) for region, (name, mask) in pairs]


def read_boxes(path: Path, size: tuple[int, int]) -> list[Region]:
    """The boxes of a JSON or CSV file.

    Raises:
        UsageError: there is no such file, or a box lies outside the image.
        DataError: it holds something else.
    """
    from binderclip.adapt import Region

    if not path.is_file():
        raise UsageError(f"--boxes: there is no file {path}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a text file in UTF-8; boxes are {FORMS}") from error
    entries = _json_entries(path, text) if text.lstrip().startswith(("[", "{")) else _csv_entries(path, text)
    regions = []
    for place, numbers, name in entries:
        try:
            x0, y0, x1, y1 = (float(v) for v in numbers)
            region = Region((x0, y0, x1, y1), name=name)
        except (TypeError, ValueError) as error:
            reason = str(error) if isinstance(error, UsageError) else f"{numbers!r} is not a box of four numbers"
            raise DataError(f"{path}, {place}: {reason}") from error
        try:
            region.bounds(*size)
        except UsageError as error:
            raise UsageError(f"{path}, {place}: {error}") from error
        regions.append(region)
    if not regions:
        raise DataError(f"{path}: no box in it; boxes are {FORMS}")
    return regions


def _json_entries(path: Path, text: str) -> list[tuple[str, Any, str]]:
    try:
        document = parse_json(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}: damaged JSON (line {error.lineno}: {error.msg})") from error
    except (RecursionError, ValueError) as error:
        raise DataError(f"{path}: JSON that cannot be read: nested too deeply, or a number too long") from error
    if isinstance(document, dict):
        document = document.get("boxes", document.get("regions"))
    if not isinstance(document, list):
        raise DataError(f"{path}: no list of boxes in it; boxes are {FORMS}")
    entries = []
    for number, entry in enumerate(document, start=1):
        name = ""
        if isinstance(entry, dict):
            name = str(entry.get("name") or "")
            entry = entry.get("box", [entry.get(column) for column in COLUMNS])
        entries.append((f"box {number}", entry if isinstance(entry, list) else [entry], name))
    return entries


def _csv_entries(path: Path, text: str) -> list[tuple[str, Any, str]]:
    try:
        rows = [(n, [cell.strip() for cell in row]) for n, row in enumerate(csv.reader(io.StringIO(text)), start=1)]
    except csv.Error as error:
        raise DataError(f"{path}: no table that can be read ({error}); boxes are {FORMS}") from error
    rows = [(n, row) for n, row in rows if any(row)]
    order: list[int] = [0, 1, 2, 3]
    name_at: int | None = 4
    if rows and not _is_number(rows[0][1][0]):
        head = [cell.lower() for cell in rows.pop(0)[1]]
        missing = [column for column in COLUMNS if column not in head]
        if missing:
            raise DataError(f"{path}: no column {missing[0]} in its first line; boxes are {FORMS}")
        order = [head.index(column) for column in COLUMNS]
        name_at = head.index("name") if "name" in head else None
    entries = []
    for number, row in rows:
        numbers = [row[i] if i < len(row) else "" for i in order]
        name = row[name_at] if name_at is not None and name_at < len(row) else ""
        entries.append((f"line {number}", numbers, name))
    return entries


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def read_masks(masks: Sequence[str], size: tuple[int, int]) -> list[tuple[str, np.ndarray]]:
    """Names and masks: of each value in one label map, or of each file.

    A file whose pixels are only 0 and one other value is one mask; otherwise every value but 0 (background) and 255
    (65535 in 16 bits; none) is a region, in the order of the values.

    Raises:
        UsageError: a missing file, or one of another size than the image.
        DataError: not a picture of numbers, or nothing in it.
    """
    from binderclip.data import list_images

    paths: list[Path] = []
    for given in masks:
        path = Path(given)
        if path.is_dir():
            paths += list_images(path)
        elif path.is_file():
            paths.append(path)
        else:
            raise UsageError(f"--masks: there is no file or folder {path}")
    parts = [part for path in paths for part in _masks_of(path, size, len(paths) == 1)]
    if not parts:
        raise DataError(f"--masks {' '.join(masks)}: no region in it")
    return parts


def mask_values(path: Path) -> tuple[np.ndarray, bool]:
    """The numbers of a mask or label map (H, W), and whether they are the indices of a palette.

    Raises:
        DataError: not a picture that can be read.
    """
    import numpy as np
    from PIL import UnidentifiedImageError

    from binderclip.data.images import open_header

    try:
        with open_header(path) as picture:
            # Palette indices and 16-bit numbers are read as they are.
            kept = picture if picture.mode in ("1", "L", "P", "I", "I;16") else picture.convert("L")
            return np.array(kept), kept.mode == "P"
    except (OSError, UnidentifiedImageError) as error:
        raise DataError(f"{path}: not a picture that can be read") from error


def _masks_of(path: Path, size: tuple[int, int], alone: bool) -> list[tuple[str, np.ndarray]]:
    import numpy as np

    values, _ = mask_values(path)
    if values.shape != tuple(size):
        raise UsageError(
            f"--masks {path} is {values.shape[1]} x {values.shape[0]} pixels, the image {size[1]} x {size[0]}"
        )
    there = [int(v) for v in np.unique(values) if v != 0]
    if not there:
        raise DataError(f"{path}: an empty mask, every pixel is 0")
    if len(there) == 1 or not alone:
        return [(path.stem, values != 0)]
    return [(str(v), values == v) for v in there if v not in (255, 65535)]
