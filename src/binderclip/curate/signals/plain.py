"""Signals that need no model: lengths of a text, sizes of a picture, groups of equal texts and equal pictures."""

from __future__ import annotations

import hashlib
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from PIL import Image

from binderclip.curate.engine.columns import ColumnValues, numbers
from binderclip.curate.engine.shard import Shard
from binderclip.data import open_header
from binderclip.errors import UsageError


@dataclass(frozen=True)
class TextSignal:
    """A number for each text.

    Args:
        name: of the column.
        measure: text -> number.
        source: column of texts.
    """

    name: str
    measure: Callable[[str], float]
    source: str = "text"
    version: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """The column of texts."""
        return (self.source,)

    def __call__(self, shard: Shard) -> ColumnValues:
        """One number a sample."""
        return np.array([self.measure(text) for text in texts_of(shard, self.source)])


def texts_of(shard: Shard, column: str) -> list[str]:
    """A column of texts, "" where there is none.

    Raises:
        UsageError: it holds something else.
    """
    values = shard.columns[column]
    if not isinstance(values, list) or not all(value is None or isinstance(value, str) for value in values):
        raise UsageError(f"column {column!r} does not hold texts")
    return [value or "" for value in values]


def count_words(text: str) -> int:
    """Number of words between white space, as DataComp's basic filter counts them."""
    return len(text.split())


def count_numbers(text: str) -> int:
    """Number of runs of digits."""
    return len(re.findall(r"\d+", text))


def group_of_caption(text: str) -> int:
    """`group_of` of a caption, of which case and white space do not count."""
    return group_of(" ".join(text.casefold().split()))


TEXT_SIGNALS = (
    TextSignal("words", count_words),
    TextSignal("characters", len),
    TextSignal("numbers", count_numbers),
    TextSignal("caption_group", group_of_caption),
)
"""`caption_group` is equal for captions that differ only in case and white space."""


def group_of(content: str | bytes) -> int:
    """A 63-bit number that is equal for equal contents."""
    data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class LanguageSignal:
    """Stands for `language`, which only the data can have: asked for without them, it says so.

    Raises:
        UsageError: when it is called.
    """

    name: str = "language"
    needs: tuple[str, ...] = ()
    version: str = ""

    def __call__(self, shard: Shard) -> ColumnValues:
        """Always an error."""
        raise UsageError(
            "languages of captions are not computed here: give the data a column `language` ('en', ...), "
            'or leave the test out: language = "" in the stage'
        )


@dataclass(frozen=True)
class SizeSignal:
    """Width or height of the picture as it was found on the web, in pixels.

    DataComp's and img2dataset's `original_width` is taken where the data have it, then `width`; otherwise the header
    of the picture is read. NaN where the picture cannot be read.

    Args:
        axis: 0 for the width, 1 for the height.
    """

    axis: int
    version: str = "1"
    needs: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """`original_width` or `original_height`."""
        return ("original_width", "original_height")[self.axis]

    def __call__(self, shard: Shard) -> ColumnValues:
        """One number a sample."""
        recorded = shard.column(("width", "height")[self.axis])
        if recorded is not None and not np.isnan(numbers(recorded, self.name)).any():
            return numbers(recorded, self.name)
        return np.array([_size(picture)[self.axis] for picture in shard_pictures(shard, self.name)], np.float64)


def shard_pictures(shard: Shard, name: str) -> Any:
    """The shard's pictures.

    Raises:
        UsageError: the data have none; `name` is the signal that wants them.
    """
    if shard.pictures is None:
        raise UsageError(f"{name} is computed from pictures, and there are none: give the data a column {name!r}")
    return shard.open_pictures()


def _size(picture: Any) -> tuple[float, float]:
    if isinstance(picture, Image.Image):
        return cast("tuple[float, float]", picture.size)
    try:
        with open_header(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as image:
            turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return (image.height, image.width) if turned else image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return (np.nan, np.nan)


@dataclass(frozen=True)
class SideSignal:
    """`side`, the shorter side in pixels, or `aspect`, the longer side over the shorter."""

    name: str
    version: str = ""
    needs: tuple[str, ...] = ("original_width", "original_height")

    def __call__(self, shard: Shard) -> ColumnValues:
        """One number a sample."""
        width, height = (numbers(shard.columns[name], name) for name in self.needs)
        shorter, longer = np.minimum(width, height), np.maximum(width, height)
        with np.errstate(divide="ignore", invalid="ignore"):
            return shorter if self.name == "side" else longer / shorter


@dataclass(frozen=True)
class PictureGroup:
    """`picture_group`: a number that is equal for pictures whose files are equal byte by byte."""

    name: str = "picture_group"
    version: str = "1"
    needs: tuple[str, ...] = ()

    def __call__(self, shard: Shard) -> ColumnValues:
        """One number a sample."""
        return np.array([group_of(_content(picture)) for picture in shard_pictures(shard, self.name)], np.int64)


def _content(picture: Any) -> bytes:
    if isinstance(picture, (str, os.PathLike)):
        with open(picture, "rb") as file:
            return file.read()
    return picture if isinstance(picture, bytes) else f"{picture.mode}{picture.size}".encode() + picture.tobytes()


IMAGE_SIGNALS: Sequence[Any] = (
    SizeSignal(0),
    SizeSignal(1),
    SideSignal("side"),
    SideSignal("aspect"),
    PictureGroup(),
)
