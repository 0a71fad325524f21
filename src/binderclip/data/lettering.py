"""Text that has to fit into a picture."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFont


def fitting(text: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning of a text that fits; "" where nothing does.

    Longer beginnings must not fit where shorter ones do not. Only about as much of the text is looked at as fits.
    """
    low, high = 0, min(16, len(text))
    while fits(text[:high]):
        low = high
        if high == len(text):
            return text
        high = min(2 * high, len(text))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle)
    return text[:low]


def ellipsized(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: float) -> str:
    """A text on one line that fits into `width` pixels, its end replaced by dots where it has to be.

    Args:
        text: line breaks become spaces.
        font: it is drawn with.
        width: in pixels.

    Returns:
        "" where not even a letter and the dots fit.
    """
    text = " ".join(text.splitlines())
    if fitting(text, lambda part: font.getlength(part) <= width) == text:
        return text
    kept = fitting(text, lambda part: font.getlength(part + "...") <= width).rstrip()
    return kept and kept + "..."
