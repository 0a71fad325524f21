"""Contact sheets: pictures in a grid, each with a line of text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from binderclip.errors import UsageError


def contact_sheet(
    entries: Sequence[tuple[Any, str]], out: str | Path, *, columns: int = 6, side: int = 160, most: int = 60
) -> Path:
    """Save pictures in a grid with a caption under each.

    Args:
        entries: (anything `open_image` takes, caption); the first `most` are drawn.
        out: path of the PNG.
        columns: pictures in a row.
        side: side of a picture's cell, in pixels.
        most: most pictures drawn.

    Raises:
        UsageError: the folder of `out` does not exist.
    """
    from PIL import Image, ImageDraw, ImageFont, ImageOps

    from binderclip.data import open_image

    out = Path(out)
    if not out.parent.is_dir():
        raise UsageError(f"cannot write {out}: there is no folder {out.parent}")
    entries = list(entries)[:most]
    columns = min(columns, len(entries))
    rows = -(-len(entries) // columns)
    gap, text = 8, 20
    font = ImageFont.load_default(size=13)
    sheet = Image.new("RGB", (columns * (side + gap) + gap, rows * (side + text + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (source, caption) in enumerate(entries):
        x = gap + index % columns * (side + gap)
        y = gap + index // columns * (side + text + gap)
        picture = ImageOps.contain(open_image(source), (side, side))
        sheet.paste(picture, (x + (side - picture.width) // 2, y + (side - picture.height) // 2))
        while caption and draw.textlength(caption, font=font) > side:
            caption = caption[:-2].rstrip("…") + "…"
        draw.text((x + side / 2, y + side + 3), caption, fill="black", font=font, anchor="ma")
    sheet.save(out)
    return out
