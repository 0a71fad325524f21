"""HEIC pictures, as telephones take them: what they begin with, and the plug-in that opens them."""

from __future__ import annotations

import io
import os
from typing import IO

from PIL import Image

_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
"""What stands after the length of a box and `ftyp` (ISO/IEC 23008-12); Pillow alone cannot open them."""


def opens_as_heif(source: str | os.PathLike[str] | IO[bytes] | io.BytesIO) -> bool:
    """Whether a file begins as a HEIC picture and Pillow can open those; an open file stands at its beginning then."""
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as stream:
            head = stream.read(12)
    else:
        source.seek(0)
        head = source.read(12)
        source.seek(0)
    return _is_heif(head) and teach_heif()


def heif_problem(head: bytes) -> str:
    """Why a file that begins so could not be opened, where it is a HEIC picture; else empty."""
    if not _is_heif(head):
        return ""
    if "HEIF" in Image.OPEN:
        return "damaged image (its header cannot be read)"
    return 'a HEIC picture, as telephones take them: pip install "binderclip[heic]"'


def teach_heif() -> bool:
    """Register the plug-in with Pillow where it is installed; whether Pillow knows HEIC now.

    True too where it did before: another thread may have registered it since somebody was refused. It takes a second to
    load, so that it waits for the first picture that needs it.
    """
    if "HEIF" in Image.OPEN:
        return True
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp" and head[8:12] in _BRANDS
