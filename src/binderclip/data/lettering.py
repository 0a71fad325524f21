"""Text in pictures: in a font that has its letters, and cut to what fits."""

from __future__ import annotations

import unicodedata
import warnings
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import ImageFont

MOST_NAMED = 8
"""Letters that a warning shows of those that no font has."""
WIDE = ("noto", "cjk", "unifont", "droidsansfallback", "wqy", "arial unicode", "msyh", "pingfang", "hiragino")
"""Parts of names of fonts of many scripts, which are looked at before others."""


def font_for(texts: str | Iterable[str], size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """A font that has all letters of some texts: Pillow's own, matplotlib's DejaVu Sans, or one of the system's.

    Where none has all of them it is the one that has most, and a warning says which letters become boxes.

    Args:
        texts: that will be drawn with it.
        size: in pixels.
    """
    from PIL import ImageFont

    letters = _letters([texts] if isinstance(texts, str) else texts)
    if all(letter.isascii() for letter in letters):
        return ImageFont.load_default(size=size)
    path, missing = _font_file(letters)
    if missing:
        shown = "".join(sorted(missing)[:MOST_NAMED])
        warnings.warn(
            f"no font here has the letters {shown}, which become boxes: a font such as Noto Sans CJK has most scripts",
            stacklevel=2,
        )
    return ImageFont.truetype(path, size=size)


def _letters(texts: Iterable[str]) -> frozenset[str]:
    """What a font has to have: no spaces, and nothing that is not drawn by itself."""
    unseen = ("C", "Z", "M")  # control and format, separators, marks, which fonts put together
    return frozenset(letter for text in texts for letter in text if unicodedata.category(letter)[0] not in unseen)


@lru_cache(maxsize=64)
def _font_file(letters: frozenset[str]) -> tuple[str, frozenset[str]]:
    """A font's file, and the letters that it does not have: the first file without any, else that with the fewest."""
    fewest: tuple[str, frozenset[str]] | None = None
    for path in _font_files():
        missing = letters - _letters_of(path)
        if fewest is None or len(missing) < len(fewest[1]):
            fewest = path, missing
        if not missing:
            break
    assert fewest is not None  # matplotlib brings a font
    return fewest


@lru_cache(maxsize=1)
def _font_files() -> list[str]:
    """matplotlib's font, then the system's, those of many scripts first."""
    import matplotlib
    from matplotlib.font_manager import findSystemFonts

    own = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"

    def order(path: str) -> tuple[bool, str]:
        return not any(name in Path(path).name.lower() for name in WIDE), path

    return [str(own), *sorted(findSystemFonts(), key=order)]


@lru_cache(maxsize=256)
def _letters_of(path: str) -> frozenset[str]:
    """The letters of a font; none of one that cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(map(chr, FT2Font(path).get_charmap()))
    except (OSError, RuntimeError, ValueError):
        return frozenset()


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
