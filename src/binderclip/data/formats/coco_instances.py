"""COCO's instance files: the masks of their annotations, from polygons and both kinds of run lengths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool

from binderclip.data.formats.run_lengths import run_lengths
from binderclip.data.images import MAX_PIXELS
from binderclip.errors import DataError

__all__ = ["CocoPicture", "coco_instance_pictures", "is_coco_instances", "polygon_interior", "unpacked_run_lengths"]


@dataclass
class CocoPicture:
    """A picture with its instances.

    Attributes:
        name: `file_name`. size: (H, W).
        instances: (name of the category, run lengths of the mask).
        left_out: annotations of crowds, which are no instance.
    """

    name: str
    size: tuple[int, int]
    instances: list[tuple[str, list[int]]] = field(default_factory=list)
    left_out: int = 0


def is_coco_instances(document: Any) -> bool:
    """Whether a JSON document has the three tables of COCO instances."""
    tables = ("images", "annotations", "categories")
    return isinstance(document, dict) and all(isinstance(document.get(table), list) for table in tables)


def coco_instance_pictures(document: dict[str, Any], *, title: str = "COCO") -> list[CocoPicture]:
    """The pictures of a COCO document, with run lengths of every mask.

    Args:
        document: with `images`, `annotations` and `categories`.
        title: of the file, for messages.

    Raises:
        DataError: an entry is wrong; the message says which.
    """
    names: dict[Any, str] = {}
    for place, entry in enumerate(document["categories"]):
        if not isinstance(entry, dict) or not _is_id(entry.get("id")) or not isinstance(entry.get("name"), str):
            raise DataError(f"{title}: category {place + 1} has no id and name")
        names[entry["id"]] = entry["name"]
    pictures: dict[Any, CocoPicture] = {}
    for place, entry in enumerate(document["images"]):
        what = entry if isinstance(entry, dict) else {}
        height, width = (_side(what.get(name)) for name in ("height", "width"))
        if not _is_id(what.get("id")) or not isinstance(what.get("file_name"), str) or not (height and width):
            raise DataError(f"{title}: image {place + 1} has no id, file_name, height and width")
        if height * width > MAX_PIXELS:
            # Its masks would fill the memory before anybody sees that no such picture can be opened.
            raise DataError(f"{title}: image {place + 1} of {width} x {height} is larger than any that is opened")
        pictures[what["id"]] = CocoPicture(what["file_name"], (height, width))
    for place, entry in enumerate(document["annotations"]):
        what = entry if isinstance(entry, dict) else {}
        number = what.get("image_id")
        picture = pictures.get(number) if _is_id(number) else None
        if picture is None:
            raise DataError(f"{title}: annotation {place + 1} is of no image of the file")
        if what.get("iscrowd") == 1:
            picture.left_out += 1
            continue
        try:
            counts = _counts(what.get("segmentation"), picture.size)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{title}: annotation {place + 1}: {error}") from error
        category = what.get("category_id")
        picture.instances.append((names.get(category, "") if _is_id(category) else "", counts))
    return list(pictures.values())


def _is_id(value: Any) -> bool:
    return isinstance(value, (int, str)) and not isinstance(value, bool)


def _side(value: Any) -> int | None:
    """A height or width in pixels, None for what cannot be one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None


def _counts(segmentation: Any, size: tuple[int, int]) -> list[int]:
    """Uncompressed run lengths of a segmentation.

    Raises:
        ValueError: neither polygons nor run lengths of the picture's size.
    """
    if isinstance(segmentation, dict):
        if list(segmentation.get("size", [])) != list(size):
            raise ValueError(f"a mask of {segmentation.get('size')} on a picture of {list(size)}")
        packed = segmentation.get("counts")
        counts = unpacked_run_lengths(packed) if isinstance(packed, str) else packed
        whole = isinstance(counts, list) and all(isinstance(n, int) and not isinstance(n, bool) for n in counts)
        if not isinstance(counts, list) or not whole or min(counts, default=0) < 0 or sum(counts) != size[0] * size[1]:
            raise ValueError(f"run lengths that do not add up to {size[0]} x {size[1]} pixels")
        return counts
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("a segmentation is a list of polygons, or run lengths")
    mask = np.zeros(size, dtype=bool)
    for polygon in segmentation:
        mask |= polygon_interior(polygon, size)
    return run_lengths(mask)


def unpacked_run_lengths(packed: str) -> list[int]:
    """The run lengths of COCO's compressed text: five bits a character, from the third on as differences.

    Args:
        packed: `counts` of a compressed mask.

    Raises:
        ValueError: a character that is none of it, or an end within a number.
    """
    counts: list[int] = []
    value = shift = 0
    for character in packed:
        code = ord(character) - 48
        if not 0 <= code < 64:
            raise ValueError(f"{character!r} is not part of compressed run lengths")
        value |= (code & 31) << shift
        shift += 5
        if code & 32:  # more of this number follows
            continue
        if code & 16:  # the sign
            value -= 1 << shift
        # Runs of one kind are alike: each is written as its difference from the one before the last.
        counts.append(value + counts[-2] if len(counts) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("compressed run lengths end within a number")
    return counts


def polygon_interior(polygon: Sequence[float], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The pixels whose centres lie in a polygon, by the even-odd rule.

    Args:
        polygon: x, y, x, y ... of its corners, in pixels.
        size: (H, W).

    Raises:
        ValueError: fewer than three corners, or what is no finite number.
    """
    plain = isinstance(polygon, (list, tuple)) and all(
        isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v) for v in polygon
    )
    if not plain or len(polygon) < 6 or len(polygon) % 2:
        raise ValueError("a polygon is x, y, x, y ... of at least three corners")
    height, width = size
    corners = np.asarray(polygon, dtype=float).reshape(-1, 2)  # (n, 2)
    starts, ends = corners, np.roll(corners, -1, axis=0)
    mask = np.zeros(size, dtype=bool)
    low, high = corners[:, 1].min(), corners[:, 1].max()
    for row in range(max(0, math.ceil(low - 0.5)), min(height, math.floor(high - 0.5) + 1)):
        y = row + 0.5
        crossed = (starts[:, 1] > y) != (ends[:, 1] > y)
        (x0, y0), (x1, y1) = starts[crossed].T, ends[crossed].T
        crossings = np.sort(x0 + (y - y0) / (y1 - y0) * (x1 - x0))
        for left, right in zip(crossings[::2], crossings[1::2], strict=True):
            # From the first centre that is not left of the polygon to the last one before its end.
            first, last = math.ceil(left - 0.5), math.ceil(right - 0.5)
            mask[row, max(0, first) : min(width, max(0, last))] = True
    return mask
