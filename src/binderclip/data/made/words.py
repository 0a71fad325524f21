"""Words in pictures, and where exactly they stand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Real

from binderclip.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["RenderedText", "polygon_mask", "render_text"]

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class RenderedText:
    """A picture with words in it.

    Attributes:
        image: RGB.
        words: that were drawn, in order.
        polygons: the four corners (x, y) of each word's box in pixels, clockwise from the top left.
    """

    image: Image.Image
    words: list[str]
    polygons: list[Float[np.ndarray, "4 2"]]


def render_text(
    image: Image.Image,
    text: str,
    *,
    size: int = 32,
    position: tuple[float, float] = (0.5, 0.5),
    colour: Colour = (0, 0, 0),
    opacity: float = 1.0,
) -> RenderedText:
    """Draw the words of a text on a picture, one line, in Pillow's own font (Aileron).

    Args:
        image: as it is, made RGB.
        text: words between white space.
        size: of the letters, in pixels.
        position: middle of the line as shares of width and height.
        colour: of the letters.
        opacity: of the letters, in (0, 1].

    Raises:
        UsageError: no word, a size below 1, an opacity out of range, or a line that does not fit into the picture.
    """
    from PIL import Image, ImageDraw, ImageFont

    words = text.split()
    if not words or size < 1 or not 0 < opacity <= 1:
        raise UsageError(
            f"render_text needs words, a size from 1 and an opacity in (0, 1]; got {text!r}, {size}, {opacity}"
        )
    base = image.convert("RGB")
    font = ImageFont.load_default(size=size)
    left, top, right, bottom = font.getbbox(" ".join(words))
    x = position[0] * base.width - (left + right) / 2
    y = position[1] * base.height - (top + bottom) / 2
    if x + left < 0 or y + top < 0 or x + right > base.width or y + bottom > base.height:
        raise UsageError(
            f"{text!r} is {right - left:.0f} x {bottom - top:.0f} pixels and does not fit at {position} into "
            f"{base.width} x {base.height}"
        )
    layer = Image.new("L", base.size, 0)
    draw = ImageDraw.Draw(layer)
    polygons = []
    for number, word in enumerate(words):
        start = x + font.getlength(" ".join(words[:number]) + " " if number else "")
        draw.text((start, y), word, fill=round(255 * opacity), font=font)
        x0, y0, x1, y1 = draw.textbbox((start, y), word, font=font)
        polygons.append(np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], dtype=np.float64))
    return RenderedText(Image.composite(Image.new("RGB", base.size, colour), base, layer), words, polygons)


def polygon_mask(
    polygons: Sequence[Real[np.ndarray, "_ 2"]], size: tuple[int, int], *, margin: int = 1
) -> Bool[np.ndarray, "H W"]:
    """Pixels inside any of some polygons, and within a margin of them.

    Args:
        polygons: corners (x, y) in pixels.
        size: (h, w) of the picture.
        margin: in pixels, for the soft edges of letters.
    """
    from PIL import Image, ImageDraw, ImageFilter

    layer = Image.new("L", size[::-1], 0)
    draw = ImageDraw.Draw(layer)
    for polygon in polygons:
        draw.polygon([(float(x), float(y)) for x, y in polygon], fill=255)
    if margin:
        layer = layer.filter(ImageFilter.MaxFilter(2 * margin + 1))
    return np.asarray(layer) > 0
