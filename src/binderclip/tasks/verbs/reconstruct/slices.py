"""Slices as people have them: pictures in the order of their numbers, or a JSON file of polygons."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from binderclip.data import open_image
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError
from binderclip.models.files.checkpoint import read_json_object
from binderclip.settings import brief
from binderclip.tasks.events import counted, warn
from binderclip.tasks.files.inputs import find_images
from binderclip.tasks.files.maker import is_ours
from binderclip.tasks.files.outputs import real_path
from binderclip.tasks.verbs.reconstruct.request import ReconstructRequest
from binderclip.vision import PlanarSlice, picture_slice

KEY = "slices"
KEYS = ("height", "origin", "axes", "contours")
MOST_SLICES, MOST_VERTICES, MOST_PIXELS = 10_000, 1_000_000, 25_000_000
"""Pixels are those of one slice."""
OPAQUE = 255


@dataclass(frozen=True)
class SliceStack:
    """Slices and what they are called.

    Attributes:
        slices: those that could be read. names: one each.
        skipped: (path, reason) of the others.
        named: whether one of those was named by itself.
        sources: files that were read.
    """

    slices: list[PlanarSlice]
    names: list[str]
    skipped: list[tuple[str, str]]
    named: bool
    sources: list[Path]


def natural_key(path: Path) -> list[tuple[int, int, str]]:
    """By which names sort as people count: slice-2 before slice-10."""
    parts = re.split(r"([0-9]+)", str(path))
    return [(0, int(part), "") if part.isascii() and part.isdigit() else (1, 0, part) for part in parts]


def picture_of(request: ReconstructRequest) -> Path:
    """Where the picture of the mesh goes."""
    return Path(request.picture or Path(request.out).with_suffix(".png"))


def read_slices(request: ReconstructRequest) -> SliceStack:
    """The slices of a request.

    Raises:
        UsageError: no such file, --spacing missing or of another number of heights, or a document that is none of
            slices.
        CheckpointError: a file that is no JSON.
        DataError: a folder without a picture.
    """
    jsons = [name for name in request.slices if name.lower().endswith(".json")]
    if jsons:
        if len(request.slices) > 1:
            raise UsageError(f"{jsons[0]} holds all slices: give it alone")
        if request.spacing is not None or request.invert:
            raise UsageError("--spacing and --invert are for pictures: a JSON file says where its slices lie")
        return _of_document(Path(jsons[0]))
    return _of_pictures(request)


def _of_pictures(request: ReconstructRequest) -> SliceStack:
    paths: list[Path] = []
    named: set[Path] = set()
    for argument in request.slices:
        given = find_images([argument])
        # The picture of an earlier run in the slices' own folder is no slice.
        own = [path for path in given.paths if real_path(path) == real_path(picture_of(request)) and is_ours(path)]
        paths += sorted((path for path in given.paths if path not in own), key=natural_key)
        named |= given.named
    if request.spacing is None:
        raise UsageError("--spacing is missing: the distance between two slices, in pixels")
    if len(paths) > MOST_SLICES:
        raise UsageError(f"{number_of(len(paths), 'slice')} are too many: at most {MOST_SLICES}")
    heights = request.spacing
    if len(heights) == 1:
        heights = [number * heights[0] for number in range(len(paths))]
    elif len(heights) != len(paths):
        raise UsageError(f"--spacing has {number_of(len(heights), 'height')} for {number_of(len(paths), 'picture')}")
    slices, names, skipped, sizes = [], [], [], set()
    for path, height in counted(zip(paths, heights, strict=True), "slice", len(paths)):
        try:
            mask = slice_mask(path, invert=request.invert)
        except DataError as error:
            skipped.append((str(path), f"{error}; no slice at height {height:g}"))
            continue
        sizes.add(mask.shape)
        slices.append(picture_slice(mask, height))
        names.append(str(path))
    if len(sizes) > 1:
        shown = ", ".join(sorted(f"{columns} x {rows}" for rows, columns in sizes)[:4])
        warn(f"slices are of {len(sizes)} sizes ({shown}): their middles are laid on one another")
    return SliceStack(slices, names, skipped, any(Path(key) in named for key, _ in skipped), paths)


def slice_mask(path: Path, *, invert: bool = False) -> Any:
    """A slice's values [H, W] of 8 bits: opacity where there is transparency, brightness elsewhere.

    Raises:
        DataError: it cannot be read, or is too large.
    """
    picture = open_image(path, mode="RGBA", max_pixels=MOST_PIXELS)
    alpha = np.asarray(picture.getchannel("A"))
    values = alpha if alpha.min() < OPAQUE else np.asarray(picture.convert("L"))
    return 255 - values if invert else values.copy()


def _of_document(path: Path) -> SliceStack:
    if not path.is_file():
        raise UsageError(f"there is no file {path}")
    entries = read_json_object(path).get(KEY)
    if not isinstance(entries, list) or not entries:
        raise UsageError(f'{path} needs "{KEY}": a list of objects with "contours" and "height"')
    if len(entries) > MOST_SLICES:
        raise UsageError(f"{path} has {len(entries)} slices: at most {MOST_SLICES}")
    slices, vertices = [], 0
    for number, entry in enumerate(entries, 1):
        try:
            part = _slice_of(entry)
        except (UsageError, ValueError, TypeError, OverflowError) as error:
            raise UsageError(f"{path}, slice {number}: {error}") from error
        vertices += sum(map(len, part.contours))
        if vertices > MOST_VERTICES:
            raise UsageError(f"{path} has more than {MOST_VERTICES} vertices")
        slices.append(part)
    return SliceStack(slices, [f"slice {number}" for number in range(1, len(slices) + 1)], [], False, [path])


def _slice_of(entry: Any) -> PlanarSlice:
    """One object of a document."""
    if not isinstance(entry, dict):
        raise UsageError(f"must be an object {{...}}, and is {brief(entry)}")
    if unknown := sorted(set(entry) - set(KEYS)):
        raise UsageError(f"has no field {unknown[0]!r}: there are {', '.join(KEYS)}")
    contours = entry.get("contours", [])
    if not isinstance(contours, list):
        raise UsageError(f'"contours" must be a list of polygons, and is {brief(contours)}')
    lines = tuple(_numbers(each, "a polygon", (None, 2)) for each in contours)
    if "height" in entry:
        if "origin" in entry or "axes" in entry:
            raise UsageError('give "height", or "origin" and "axes"')
        return PlanarSlice.horizontal(lines, entry["height"])
    if "origin" not in entry or "axes" not in entry:
        raise UsageError('"height" is missing, or "origin" and "axes"')
    origin, axes = _numbers(entry["origin"], "origin", (3,)), _numbers(entry["axes"], "axes", (2, 3))
    return PlanarSlice(lines, origin, axes)


def _numbers(value: Any, name: str, shape: tuple[int | None, ...]) -> torch.Tensor:
    """Finite numbers of a shape."""
    try:
        array = np.array(value, dtype=np.float64) if not isinstance(value, str) else np.zeros(0)
    except (ValueError, TypeError, OverflowError):
        array = np.zeros(0)
    fits = array.ndim == len(shape) and all(
        side in (None, length) for side, length in zip(shape, array.shape, strict=True)
    )
    if not fits or not np.isfinite(array).all() or np.abs(array).max(initial=0) > 1e9:
        sides = " x ".join("N" if side is None else str(side) for side in shape)
        raise UsageError(f"{name} must be {sides} finite numbers, and is {brief(value)}")
    return torch.from_numpy(array)
