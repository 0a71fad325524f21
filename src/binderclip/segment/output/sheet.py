"""One contact sheet of several segmenters: pictures as rows, segmenters as columns, the colours named below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw

from binderclip.data.images import contained
from binderclip.data.lettering import font_for
from binderclip.errors import UsageError
from binderclip.segment.output.palette import colours, ellipsized, with_legend
from binderclip.segment.output.result import Segmentation

INK = (29, 31, 35)


def segmentation_sheet(rows: Sequence[Mapping[str, Segmentation]], *, side: int = 150) -> Image.Image:
    """The picture, then its overlay by every segmenter, a row a picture; one legend for all.

    Args:
        rows: for each picture segmenter's name -> segmentation; all with the same names and classes.
        side: of a cell, in pixels; pictures keep their aspect.

    Raises:
        UsageError: no row, or rows of other names or classes.
    """
    if not rows or not rows[0]:
        raise UsageError("a sheet needs at least one picture and one segmenter")
    names = list(rows[0])
    first = rows[0][names[0]]
    if any(list(row) != names or any(each.classes != first.classes for each in row.values()) for row in rows):
        raise UsageError("all rows of a sheet must have the same segmenters and classes")
    gap, head = 4, 22
    font = font_for(names, 13)
    cells = [[row[names[0]].image, *(row[name].overlay(legend=False) for name in names)] for row in rows]
    fitted = [[contained(each.convert("RGB"), side) for each in line] for line in cells]
    heights = [max(each.height for each in line) for line in fitted]
    width, height = (len(names) + 1) * (side + gap) + gap, head + gap + sum(heights) + gap * len(rows)
    sheet = Image.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(sheet)
    for column, name in enumerate(["picture", *names]):
        middle = (gap + column * (side + gap) + side / 2, head / 2)
        draw.text(middle, ellipsized(name, font, side), fill=INK, font=font, anchor="mm")
    top = head
    for line, tall in zip(fitted, heights, strict=True):
        for column, picture in enumerate(line):
            sheet.paste(picture, (gap + column * (side + gap) + (side - picture.width) // 2, top))
        top += tall + gap
    return with_legend(sheet, _entries(rows, first), size=15)


def _entries(rows: Sequence[Mapping[str, Segmentation]], first: Segmentation) -> list[tuple[str, tuple[int, int, int]]]:
    """Name and colour of every class that is seen somewhere, the most frequent first."""
    counts = np.zeros(len(first.classes))
    for row in rows:
        for each in row.values():
            labels = each.labels.cpu().numpy()
            counts += np.bincount(labels[labels >= 0], minlength=len(counts)) / labels.size
    palette = colours(len(first.classes), background=first.background)
    return [(first.classes[index], palette[index]) for index in np.argsort(-counts) if counts[index] >= 0.005]
