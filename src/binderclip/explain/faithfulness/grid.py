"""Maps as a grid of large cells, a block an image: to look at, where a row of all methods would be a ribbon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from binderclip.data.lettering import ellipsized, font_for
from binderclip.explain.engine.attribution import Attribution, called_blank

if TYPE_CHECKING:
    from PIL import Image

INK, SOFT = (29, 31, 35), (110, 117, 128)
GAP = 12


def map_grid(
    images: Float[Tensor, "B 3 H W"],
    attributions: Mapping[str, Attribution],
    captions: Sequence[str] = (),
    *,
    figures: Mapping[str, Sequence[str]] | None = None,
    side: int = 280,
    columns: int = 4,
) -> Image.Image:
    """The image and the map of every method over it, cell by cell, each method's name above its cell.

    Args:
        images: in [0, 1].
        attributions: method -> result for these images, in the order of the cells.
        captions: one an image, above the image's own cell.
        figures: method -> one line an image, below its cells.
        side: of a cell, in pixels; the images' longer side.
        columns: cells in a row, the image's own among them.
    """
    from PIL import Image, ImageDraw

    from binderclip.data import open_image

    scale = side / max(images.shape[-2:])
    width, height = (max(1, round(length * scale)) for length in (images.shape[-1], images.shape[-2]))
    font = font_for([*captions, *attributions], max(9, side // 16))
    fine = font_for([line for lines in (figures or {}).values() for line in lines], max(8, side // 20))
    above, below = round(1.6 * max(9, side // 16)), round(1.6 * max(8, side // 20)) if figures else 0
    names = list(attributions)
    columns = max(1, min(columns, len(names) + 1))
    block = -(-(len(names) + 1) // columns) * (above + height + below + GAP) + GAP
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, len(images) * block + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, image in enumerate(images):
        picture = open_image(image.cpu())
        caption = captions[row] if row < len(captions) else ""
        cells = [(caption, "", picture)]
        for name in names:
            drawn = attributions[name].overlay(picture, row, note=False)
            line = figures[name][row] if figures and name in figures else ""
            cells.append((name.replace("_", " "), line, drawn))
        for index, (title, line, cell) in enumerate(cells):
            left = GAP + index % columns * (width + GAP)
            top = GAP + row * block + index // columns * (above + height + below + GAP)
            fitted = cell.convert("RGB").resize((width, height), Image.Resampling.LANCZOS)
            if index and bool(attributions[names[index - 1]].blank[row]):
                fitted = called_blank(fitted)
            draw.text((left, top), ellipsized(title, font, width), fill=INK, font=font)
            sheet.paste(fitted, (left, top + above))
            draw.text((left, top + above + height + 4), ellipsized(line, fine, width), fill=SOFT, font=fine)
    return sheet
