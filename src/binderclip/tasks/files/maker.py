"""How a file says that binderclip wrote it, and how that is read again.

PNG, JPEG and WebP say it by their `Software`, JSON and safetensors by their first key, a page by its `generator`, an
SVG by its `metadata`, a mesh by a comment, a table by its header. `.npy` and Parquet have no place for it.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MAKER = "binderclip"
KEY = "made_by"
"""First key of a JSON document that a verb writes."""
META = f'<meta name="generator" content="{MAKER}">'
MESH_COMMENT = f"made by {MAKER}"
"""Of a PLY or OBJ file, before its first vertex."""
SVG_MARK = f"<metadata>{MAKER}</metadata>"
_SOFTWARE = 0x0131
"""EXIF's number of the program that made a picture."""
_LOOKED_AT = 2048
"""Bytes of a file's beginning in which a text says who made it."""
_MOST_HEADER = 1_000_000
_SIGNED = re.compile(rb'\{\s*"(?:made_by|format)"\s*:\s*"binderclip')
_IN_MESH = re.compile(rb"(?:ply\nformat [^\n]*\ncomment|#) made by binderclip\n")
_IN_TENSORS = re.compile(rb'"__metadata__"\s*:\s*\{.*"format"\s*:\s*"binderclip', re.DOTALL)


def is_ours(path: Path, columns: Sequence[str] = ()) -> bool:
    """Whether a file says that binderclip wrote it; False for one that is not there.

    Args:
        path: of the file.
        columns: for a table, those its header begins with.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_LOOKED_AT)
    except OSError:
        return False
    if head[:4] in (b"\x89PNG", b"RIFF") or head[:2] == b"\xff\xd8":
        return _maker_of(path) == MAKER
    if _IN_MESH.match(head) or _SIGNED.match(head.lstrip()):
        return True
    if head[:4] == b"<svg" and SVG_MARK.encode() in head:
        return True
    if (head[:1] == b"<" or head[:9] == b"<!doctype") and META.encode() in head:
        return True
    if len(head) > 9 and head[8:9] == b"{" and _IN_TENSORS.search(_header_of(path, head)):
        return True
    return bool(columns) and head.startswith(_header_line(columns))


def _maker_of(path: Path) -> str | None:
    """The program that a picture names."""
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG", "JPEG", "WEBP"]) as picture:
            software = picture.info.get("Software") or picture.getexif().get(_SOFTWARE)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return software if isinstance(software, str) else None


def _header_of(path: Path, head: bytes) -> bytes:
    """The JSON in front of the tensors of a safetensors file, at most a megabyte of it."""
    length = int.from_bytes(head[:8], "little")
    if length > _MOST_HEADER:
        return head[8:]
    with path.open("rb") as file:
        return file.read(8 + length)[8:]


def _header_line(columns: Sequence[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(columns)
    return text.getvalue().encode("utf-8", "backslashreplace")


def signed(document: Any) -> Any:
    """A JSON document with the name of its maker as first key; lists cannot say it."""
    return {KEY: MAKER, **document} if isinstance(document, Mapping) else document


def signed_svg(document: str) -> str:
    """An SVG document that says who made it, by the first element in it."""
    root, end, content = document.partition(">")
    return f"{root}{end}\n{SVG_MARK}{content}"


def picture_options(out: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `Image.save` by which the picture says who made it.

    Args:
        out: path of the picture; its suffix says how.
        options: what else is given; a `pnginfo` among them gets the name, too.
    """
    if out.suffix.lower() == ".png":
        from PIL.PngImagePlugin import PngInfo

        info = options.get("pnginfo") or PngInfo()
        info.add_text("Software", MAKER)
        return {**options, "pnginfo": info}
    from PIL import Image

    exif = Image.Exif()
    exif[_SOFTWARE] = MAKER
    return {**options, "exif": exif}
