"""Outlines drawn by hand of things in the labelled photographs, and the masks that they enclose.

`photograph_masks.json` holds, for a word of a picture, every thing in it that the word names: polygons of corners
(x, y) in fractions of width and height from the top left corner, and holes. They were read off enlarged pictures with
axes, drawn over the pictures and corrected; no segmentation method had a part in them. Hair, twigs and other things
that are finer than 1 % of a side are followed roughly.

`photograph_regions.json` holds regions without an outline of their own (sky, grass, water, ...) in the same form. Those
of the splits "learn" and "choose" lie safely inside their regions and need not be all of them; "other" is none of the
words. Those of "report" follow the borders, and where these could not be told by eye the word was left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw

from binderclip.documents import parse_json
from binderclip.errors import UsageError
from binderclip.train.bundled.data.labelled_photographs import (
    LabelledPhotograph,
    PhotographSplit,
    load_labelled_photographs,
    load_region_photographs,
    photograph_rows,
    region_photograph_rows,
)

__all__ = [
    "PhotographMask",
    "load_photograph_masks",
    "load_photograph_regions",
    "photograph_outlines",
    "photograph_regions",
]

Ring = tuple[tuple[float, float], ...]
OVERSAMPLING = 4
"""A pixel belongs to a mask if at least half of its 4 x 4 parts do."""


@dataclass(frozen=True)
class PhotographMask:
    """Where a photograph shows what a word names.

    Attributes:
        photograph: its row of the list.
        word: one of its `label`, `also` and `shows`.
        polygons: outlines; the mask is their union. holes: outlines of what is not of it.
    """

    photograph: LabelledPhotograph
    word: str
    polygons: tuple[Ring, ...]
    holes: tuple[Ring, ...] = ()

    def mask(self, height: int, width: int) -> Bool[np.ndarray, "H W"]:
        """The mask at the size of a picture.

        Raises:
            UsageError: a side below 1.
        """
        if height < 1 or width < 1:
            raise UsageError(f"mask: size is {height} x {width}; both sides are at least 1")
        size = (width * OVERSAMPLING, height * OVERSAMPLING)
        drawn = Image.new("L", size)
        draw = ImageDraw.Draw(drawn)
        for rings, value in ((self.polygons, 1), (self.holes, 0)):
            for ring in rings:
                # ImageDraw counts from the middle of the first pixel
                draw.polygon([(x * size[0] - 0.5, y * size[1] - 0.5) for x, y in ring], fill=value)
        parts = np.asarray(drawn).reshape(height, OVERSAMPLING, width, OVERSAMPLING)
        return parts.mean((1, 3)) >= 0.5


def photograph_outlines() -> tuple[PhotographMask, ...]:
    """All outlines of things, by split, package, file and word; needs no package."""
    return _outlines("photograph_masks.json")


def photograph_regions() -> tuple[PhotographMask, ...]:
    """All regions, by package, file and word; needs no package."""
    return _outlines("photograph_regions.json")


@lru_cache(maxsize=2)
def _outlines(name: str) -> tuple[PhotographMask, ...]:
    text = resources.files("binderclip.train.bundled.data").joinpath(name)
    rows = {(row.package, row.file, row.member): row for row in (*photograph_rows(), *region_photograph_rows())}
    return tuple(
        PhotographMask(
            photograph=rows[entry["package"], entry["file"], entry["member"]],
            word=entry["word"],
            polygons=_rings(entry["polygons"]),
            holes=_rings(entry["holes"]),
        )
        for entry in parse_json(text.read_text(encoding="utf-8"))
    )


def _rings(entry: list[list[list[float]]]) -> tuple[Ring, ...]:
    return tuple(tuple((x, y) for x, y in ring) for ring in entry)


def load_photograph_masks(
    split: PhotographSplit | None = None, *, root: str | Path | Mapping[str, str | Path] = "/"
) -> list[PhotographMask]:
    """Outlines of things of a split whose photographs can be opened.

    Args:
        split: "learn", "choose", "report", or None for all.
        root: where the packages are, as for `load_labelled_photographs`.

    Raises:
        UsageError, DataError: as `load_labelled_photographs`.
    """
    return _located(photograph_outlines(), load_labelled_photographs(split, root=root))


def load_photograph_regions(
    split: PhotographSplit | None = None, *, root: str | Path | Mapping[str, str | Path] = "/"
) -> list[PhotographMask]:
    """Regions of a split, as `load_photograph_masks` gives things."""
    rows = [*load_labelled_photographs(split, root=root), *load_region_photographs(split, root=root)]
    return _located(photograph_regions(), rows)


def _located(outlines: tuple[PhotographMask, ...], photographs: Sequence[LabelledPhotograph]) -> list[PhotographMask]:
    rows = {(row.package, row.file, row.member): row for row in photographs}
    located = []
    for outline in outlines:
        row = rows.get((outline.photograph.package, outline.photograph.file, outline.photograph.member))
        if row is not None:
            located.append(PhotographMask(row, outline.word, outline.polygons, outline.holes))
    return located
