"""What is kept of a picture to compare it with others: hashes, size, date, sharpness, and a copy of 96 x 96 pixels."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image

from binderclip.data.images import open_header, open_image
from binderclip.errors import DataError

__all__ = ["COPY", "Fingerprint", "fingerprint_of", "sharpness_of"]

COPY = 96
"""Side of the square copy: three times the 32 pixels that are compared, so that a crop of it is still sharp."""
SHARPNESS_SIDE = 512
"""Longer side at which sharpness is measured: copies of several sizes are compared at one."""


@dataclass(frozen=True)
class Fingerprint:
    """A picture as `duplicates` sees it.

    Attributes:
        path: of the file.
        bytes_hash: SHA-256 of the file. pixels_hash: SHA-256 of size and RGBA values, upright by its orientation tag.
        copy: all of the picture as a square, transparency on white.
        width, height: in pixels, upright. bytes: of the file.
        date: local time at which it was taken by its EXIF data, else at which the file was last changed.
        sharpness: as of `sharpness_of`.
    """

    path: Path
    bytes_hash: str
    pixels_hash: str
    copy: UInt8[np.ndarray, "96 96 3"]
    width: int
    height: int
    bytes: int
    date: datetime
    sharpness: float


def fingerprint_of(path: Path) -> Fingerprint:
    """Read a picture, whole.

    Args:
        path: of the file.

    Raises:
        DataError: it cannot be read.
    """
    picture = open_image(path, mode="RGBA")
    try:
        content = path.read_bytes()
        changed = path.stat().st_mtime
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    size = np.array(picture.size, dtype="<u4").tobytes()
    flat = open_image(picture)
    # Reduced by averages; a picture that is smaller than the copy has to be interpolated instead.
    way = Image.Resampling.BOX if min(flat.size) >= COPY else Image.Resampling.BILINEAR
    return Fingerprint(
        path=path,
        bytes_hash=hashlib.sha256(content).hexdigest(),
        pixels_hash=hashlib.sha256(size + picture.tobytes()).hexdigest(),
        copy=np.asarray(flat.resize((COPY, COPY), way)),
        width=picture.width,
        height=picture.height,
        bytes=len(content),
        date=_taken(path) or datetime.fromtimestamp(changed),
        sharpness=sharpness_of(flat),
    )


def sharpness_of(picture: Image.Image) -> float:
    """Variance of the Laplacian of the grey picture, reduced to at most 512 pixels; 0 for one without an edge.

    Args:
        picture: of any mode and size.

    Paper: Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy: a comparative study, ICPR 2000.
    """
    from scipy.ndimage import laplace

    grey = picture.convert("L")
    grey.thumbnail((SHARPNESS_SIDE, SHARPNESS_SIDE), Image.Resampling.BOX)
    return float(laplace(np.asarray(grey, np.float32), mode="nearest").var())


def _taken(path: Path) -> datetime | None:
    """When a photograph was taken, by its EXIF data; None where they do not say, or cannot be parsed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_header(path) as picture:
                exif = picture.getexif()
        inner = exif.get_ifd(ExifTags.IFD.Exif)
        text = inner.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
        return datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S") if text else None
    except Exception:  # Pillow's parsers of EXIF raise what they like; the date of the file is as good
        return None
