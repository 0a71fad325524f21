"""Colours for label maps, and the overlay with its legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from binderclip.data.lettering import ellipsized, font_for

# Ordered so that the first few are as different as can be, also for colour-blind eyes; then hues in between.
_COLOURS = (
    (0, 114, 189), (230, 97, 1), (27, 158, 119), (231, 41, 138), (240, 200, 30), (117, 112, 179), (166, 86, 40),
    (86, 200, 240), (178, 24, 43), (128, 190, 40), (255, 150, 190), (0, 90, 60), (200, 150, 90), (90, 30, 120),
    (150, 150, 60), (0, 190, 190), (255, 180, 90), (60, 60, 200), (220, 130, 220), (110, 70, 60),
)  # fmt: skip
_BACKGROUND = (110, 110, 110)


def colours(count: int, *, background: bool = False) -> list[tuple[int, int, int]]:
    """`count` distinct RGB colours; with `background` the first is grey.

    After the twenty of the table they repeat, darker each time.
    """
    palette = [_BACKGROUND] if background else []
    while len(palette) < count:
        index = len(palette) - background
        shade = 0.72 ** (index // len(_COLOURS))
        red, green, blue = _COLOURS[index % len(_COLOURS)]
        palette.append((round(red * shade), round(green * shade), round(blue * shade)))
    return palette[:count]


def paint(
    image: Image.Image, labels: np.ndarray, palette: Sequence[tuple[int, int, int]], *, opacity: float, quiet: set[int]
) -> Image.Image:
    """The image with each label in its colour and a light line between labels.

    Args:
        image: RGB, of the size of `labels`.
        labels: (H, W) ids; negative ones stay uncoloured.
        palette: one colour an id.
        opacity: of the colours, in [0, 1].
        quiet: ids that are dimmed instead of coloured (background).
    """
    base = np.asarray(image, dtype=np.float32)
    grey = base.mean(axis=2, keepdims=True) * np.ones(3, dtype=np.float32)
    table = np.array([*palette, (255, 255, 255)], dtype=np.float32)
    shown = np.where(
        (labels >= 0)[..., None], (1 - opacity) * (0.5 * base + 0.5 * grey) + opacity * table[labels], base
    )
    for label in quiet:
        shown = np.where((labels == label)[..., None], 0.45 * grey + 0.25 * base, shown)
    edge = _edges(labels, max(1, round(min(labels.shape) / 300)))
    shown[edge] = 0.2 * shown[edge] + 0.8 * 255
    return Image.fromarray(shown.round().clip(0, 255).astype(np.uint8))


def _edges(labels: np.ndarray, width: int) -> np.ndarray:
    edge = np.zeros(labels.shape, dtype=bool)
    for step in range(1, width + 1):
        edge[:, :-step] |= labels[:, :-step] != labels[:, step:]
        edge[:-step] |= labels[:-step] != labels[step:]
    return edge


def with_legend(
    image: Image.Image, entries: Sequence[tuple[str, tuple[int, int, int]]], *, size: int | None = None
) -> Image.Image:
    """The image with a strip below that names the colours.

    Args:
        image: RGB.
        entries: text and colour; those that do not fit into a row begin another.
        size: of the letters in pixels; None for one that goes with the image's width.
    """
    if not entries:
        return image
    size = size or max(11, round(min(image.width / 28, image.height / 14)))
    font = font_for([text for text, _ in entries], size)
    gap, swatch = size // 2, size
    rows: list[list[tuple[str, tuple[int, int, int], float]]] = [[]]
    used = float(gap)
    for text, colour in entries:
        # A name of which nothing fits is not left out: its first letter stands for it.
        text = ellipsized(text, font, image.width - 3 * gap - swatch) or text.strip()[:1]
        width = swatch + gap / 2 + font.getlength(text) + 1.5 * gap
        if rows[-1] and used + width > image.width:
            rows.append([])
            used = float(gap)
        rows[-1].append((text, colour, used))
        used += width
    line = round(1.6 * size)
    sheet = Image.new("RGB", (image.width, image.height + gap + line * len(rows)), "white")
    sheet.paste(image, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for number, row in enumerate(rows):
        top = image.height + gap + number * line
        for text, colour, left in row:
            draw.rounded_rectangle((left, top, left + swatch, top + swatch), radius=size // 5, fill=colour)
            draw.text((left + swatch + gap / 2, top + swatch / 2), text, fill=(30, 30, 30), font=font, anchor="lm")
    return sheet
