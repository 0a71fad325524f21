"""Points that are written on a command line: `x,y` in pixels of the picture."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from binderclip.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image


def parse_point(text: str, option: str) -> tuple[float, float]:
    """(x, y) of `120,80`.

    Args:
        text: as the user wrote it.
        option: the option's name, for the message.

    Raises:
        UsageError: not two finite numbers.
    """
    parts = text.split(",")
    try:
        x, y = (float(part) for part in parts)
        if not (math.isfinite(x) and math.isfinite(y)):
            raise ValueError
    except ValueError as error:
        raise UsageError(f"{option} {text!r}: write two numbers, such as {option} 120,80") from error
    return x, y


def check_within(points: Iterable[tuple[float, float]], picture: Image.Image) -> None:
    """Refuse points outside a picture; NaN is outside.

    Raises:
        UsageError: which one, and how large the picture is.
    """
    for x, y in points:
        if not (0 <= x < picture.width and 0 <= y < picture.height):
            raise UsageError(f"point {x:g},{y:g} is outside the picture of {picture.width} x {picture.height} pixels")


def numbers_text(numbers: Iterable[float]) -> str:
    """Numbers as they are written on a command line: `120,80.5`."""
    return ",".join(f"{each:g}" if float(f"{each:g}") == each else repr(float(each)) for each in numbers)
