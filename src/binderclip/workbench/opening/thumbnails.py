"""Thumbnails of pictures as they stand in the strip, each made once as long as its file stays as it is."""

from __future__ import annotations

import base64
import html
import io
from functools import lru_cache
from pathlib import Path
from typing import Any

SIDE = 112
"""Longer side of a thumbnail, in pixels; it is shown at half of it, for fine screens."""
MOST_KEPT = 1000
"""Thumbnails that are kept, of some 4 kB each."""


def thumbnail_html(path: Path, name: str) -> str:
    """A picture of the strip as HTML, with its data in it.

    Args:
        path: of the picture. name: what the page calls it.

    Raises:
        DataError: it cannot be read.
    """
    try:
        state = path.stat()
        version = (state.st_mtime_ns, state.st_size)
    except OSError:
        version = (0, 0)  # opening it says what is wrong
    shown = html.escape(name, quote=True)
    return f'<li><img src="data:image/jpeg;base64,{_encoded(path, version)}" alt="{shown}" title="{shown}"></li>'


@lru_cache(maxsize=MOST_KEPT)
def _encoded(path: Path, version: tuple[int, int]) -> str:
    """The thumbnail's JPEG in base64; `version` is another where the file was written again."""
    from binderclip.data import open_image

    return base64.b64encode(jpeg(open_image(path, size_hint=SIDE), SIDE)).decode()


def jpeg(picture: Any, side: int) -> bytes:
    """A JPEG of at most `side` pixels of a PIL picture, its data."""
    from PIL import Image

    small = picture.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "JPEG", quality=85)
    return out.getvalue()
