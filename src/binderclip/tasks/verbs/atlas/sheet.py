"""The picture of a map: pictures in the cells of a grid nearest to their places, framed in their cluster's colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Int

from binderclip.data.lettering import ellipsized, font_for
from binderclip.display import number_of
from binderclip.errors import DataError
from binderclip.search.atlas.layout import grid_cells
from binderclip.tasks.events import counted
from binderclip.tasks.report.sheet import INK, SOFT

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.tasks.verbs.atlas.result import PictureCluster

WIDTH = 1600
"""Pixels; cells get smaller with their number, and so the sheet stays one that opens anywhere."""
LARGEST, SMALLEST = 200, 48
FREE = 1.35
"""Cells for each picture: what stays empty shows where clusters end."""
GREY = (150, 155, 165)
"""Of what is in no cluster."""


def cluster_colours(count: int) -> list[tuple[int, int, int]]:
    """RGB of each cluster, as different as can be."""
    from binderclip.segment.output.palette import colours

    return colours(count)


def spread_evenly(labels: Int[np.ndarray, "n"], most: int) -> Int[np.ndarray, "k"]:
    """Rows of at most `most` pictures, of each cluster the same share."""
    if len(labels) <= most:
        return np.arange(len(labels))
    order = np.argsort(labels, kind="stable")
    return np.sort(order[np.linspace(0, len(labels) - 1, most).round().astype(int)])


def draw_map(
    paths: Sequence[Path],
    places: Float[np.ndarray, "n 2"],
    labels: Int[np.ndarray, "n"],
    clusters: Sequence[PictureCluster],
    *,
    title: str,
) -> Image.Image:
    """Draw pictures at their places, without overlap, and below them the clusters' words.

    Args:
        paths: of the pictures, as many as there is room for; one that can no longer be read leaves its cell empty.
        places: from 0 to 1. labels: of their clusters, -1 for none.
        clusters: with their words.
        title: a line above.
    """
    from PIL import Image, ImageDraw

    from binderclip.data.images import contained, open_image

    side = max(1, math.ceil(math.sqrt(FREE * len(paths))) if len(paths) > 1 else 1)
    cells = grid_cells(places, side)
    used = cells.max(0) + 1 - (low := cells.min(0))
    cell = min(LARGEST, max(SMALLEST, WIDTH // int(used.max())))
    margin, head, line = 16, 44, 26
    width = max(margin * 2 + cell * int(used[0]), 640)
    columns = max(1, width // 420)
    foot = line * math.ceil(len(clusters) / columns) + margin
    sheet = Image.new("RGB", (width, head + cell * int(used[1]) + foot + margin), "white")
    draw = ImageDraw.Draw(sheet)
    font = font_for(title, 20)
    draw.text((margin, 12), ellipsized(title, font, width - 2 * margin), fill=INK, font=font)
    colours = cluster_colours(len(clusters))
    edge = max(2, cell // 28)
    left = (width - cell * int(used[0])) // 2
    for path, (column, row), label in counted(
        zip(paths, cells - low, labels.tolist(), strict=True), "sheet", len(paths)
    ):
        x, y = left + int(column) * cell, head + int(row) * cell
        try:
            picture = contained(open_image(path, mode="RGB", size_hint=cell), cell - 2 * edge - 2)
        except DataError:
            continue
        x, y = x + (cell - picture.width) // 2, y + (cell - picture.height) // 2
        colour = colours[label] if label >= 0 else GREY
        draw.rectangle((x - edge, y - edge, x + picture.width + edge - 1, y + picture.height + edge - 1), fill=colour)
        sheet.paste(picture, (x, y))
    _legend(draw, clusters, colours, (margin, head + cell * int(used[1]) + margin), width - 2 * margin, columns, line)
    return sheet


def _legend(
    draw: Any, clusters: Sequence[PictureCluster], colours: Sequence[tuple[int, int, int]], corner: tuple[int, int],
    width: int, columns: int, line: int,
) -> None:  # fmt: skip
    """The clusters in rows: colour, number, words, and how many pictures."""
    texts = [f"{one.number}  {', '.join(one.words) or 'no word fits it more'}" for one in clusters]
    font = font_for(texts, 15)
    room = width // columns
    for place, (one, text, colour) in enumerate(zip(clusters, texts, colours, strict=True)):
        x, y = corner[0] + place % columns * room, corner[1] + place // columns * line
        draw.rectangle((x, y + 2, x + 14, y + 16), fill=colour)
        count = number_of(one.size, "picture")
        tail = draw.textlength(count, font=font)
        shown = ellipsized(text, font, room - tail - 50)
        draw.text((x + 22, y), shown, fill=INK, font=font)
        draw.text((x + 32 + draw.textlength(shown, font=font), y), count, fill=SOFT, font=font)
