"""What tabs show: tables, and small copies of pictures that the browser may read."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from binderclip.errors import DataError

SMALL = 480
"""Longer side of a small copy, in pixels."""


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], caption: str) -> str:
    """A table as HTML; what stands in cells is escaped, numbers are right-aligned.

    Args:
        columns: their heads. rows: their cells; floats are shown with three decimals.
        caption: what the table is of, read aloud and shown above it.
    """
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    name = html.escape(caption, quote=True)
    return (
        f'<div class="table-box" tabindex="0" role="region" aria-label="{name}"><table><caption>{name}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f'<td class="number">{value:.3f}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value}</td>'
    return f"<td>{html.escape(str(value))}</td>"


def small_copy(source: Any, folder: Path, number: int, side: int = SMALL) -> Path | None:
    """A small JPEG of a picture; None where it cannot be read.

    Args:
        source: anything `open_image` takes.
        folder: where it goes, made where it is missing. number: its file's name.
        side: longer side, in pixels.
    """
    from PIL import Image

    from binderclip.data import open_image

    folder.mkdir(exist_ok=True)
    try:
        picture = open_image(source, size_hint=side)
    except DataError:
        return None
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    path = folder / f"{number:05d}.jpg"
    picture.save(path, quality=88)
    return path
