"""Opening images: any file people have, right way up, in colours that mean what they meant.

Everything that can go wrong with a file ends in one `DataError` that names it and says why. Formats that Pillow's plain
`convert` gets wrong are handled here: 16-bit greyscale (scaled, never clipped), CMYK with a profile, palettes and
greyscale with transparent colours, orientation tags.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from binderclip.data.files import irregular, list_files
from binderclip.data.heif import heif_problem, opens_as_heif
from binderclip.errors import DataError, UsageError
from binderclip.files import why_no_folder

BinaryFile: TypeAlias = "IO[bytes] | io.BytesIO"
"""An open file of bytes; io.BytesIO has not all that typing.IO lists."""

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | BinaryFile | Image.Image | np.ndarray | Tensor"

MAX_PIXELS = 178_956_970
"""Pictures with more pixels are refused before they are decoded (Pillow's own limit for an error)."""

_SUFFIXES = (
    ".jpg .jpeg .jpe .jfif .mpo .png .apng .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .ico .tga "
    ".heic .heif .hif"
)
IMAGE_SUFFIXES = frozenset(_SUFFIXES.split(" "))
"""What `list_images` takes for an image; `.heic` needs the extra `heic`, and its absence is reported."""

IMAGE_FORMATS = (
    "JPEG", "MPO", "PNG", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "TGA", "HEIF",
)  # fmt: skip
"""Pillow's names of what is opened. Its others stay closed: an EPS is a program, which Pillow hands to Ghostscript."""

WHITE = (255, 255, 255)


def open_image(
    source: ImageSource,
    *,
    mode: Literal["RGB", "RGBA", "auto"] = "RGB",
    background: tuple[int, int, int] = WHITE,
    max_pixels: int = MAX_PIXELS,
    size_hint: int | None = None,
) -> Image.Image:
    """Open anything that is an image as 8-bit RGB, transparency composited on `background`, or as RGBA.

    The orientation tag is applied; of an animation the first frame is taken; CMYK goes through its embedded profile
    where it has one; 16-bit values are scaled by 255/65535 (those above 65535, and floats outside [0, 1], are an error
    or, in a file, scaled by their range). RGB profiles are ignored, as the pipelines that trained CLIP models did.

    Args:
        source: a path, encoded bytes, a binary file object, a PIL image (left as it is; a copy is returned), an
            array (H, W), (H, W, 1|2|3|4), or a tensor (H, W), (1|2|3|4, H, W); arrays and tensors are
            bool, uint8, uint16 or float in [0, 1]. For a picture of one channel 2 channels mean grey and alpha.
        mode: "RGB", "RGBA" (straight, not premultiplied, colours), or "auto": RGBA where there is transparency,
            else RGB.
        background: colour under transparent parts, 0..255; only for "RGB".
        max_pixels: a larger picture (H x W) is refused from its header, before any pixel is decoded.
        size_hint: if given, a large JPEG is decoded at the smallest of 1/1, 1/2, 1/4, 1/8 of its size whose sides are
            still at least this long: up to 4 times faster; pixels differ slightly from decoding whole and resizing.

    Raises:
        DataError: missing, unreadable, truncated, not an image, or too large; the message names the file.
        UsageError: the argument itself is of a wrong kind, shape or range.
    """
    if mode not in ("RGB", "RGBA", "auto"):
        raise UsageError(f"open_image: mode is {mode!r}; it is 'RGB', 'RGBA' or 'auto'")
    if isinstance(source, (np.ndarray, Tensor)):
        image, name = _from_array(source), "array"
        if image.width * image.height > max_pixels:
            raise _too_large(name, image, max_pixels)
        return _flatten(image, mode, background)
    if isinstance(source, Image.Image):
        name = str(getattr(source, "filename", "") or "PIL image")
        return _decode(source, name, mode, background, max_pixels, None)
    stream, name = _stream(source)
    try:
        image = _identify(stream, name, max_pixels)
        with image:
            return _decode(image, name, mode, background, max_pixels, size_hint)
    finally:
        if not _is_file_object(source):
            stream.close()


def open_header(source: str | os.PathLike[str] | BinaryFile) -> Image.Image:
    """Open a file that begins as a picture in one of `IMAGE_FORMATS` does; pixels are not decoded yet.

    What else a file of a stranger may be is not tried. Errors are those of `PIL.Image.open`.
    """
    Image.init()
    try:
        return Image.open(source, formats=[name for name in IMAGE_FORMATS if name in Image.OPEN])
    except UnidentifiedImageError:
        if not opens_as_heif(source):
            raise
    return Image.open(source, formats=["HEIF"])


def to_tensor(image: Image.Image | np.ndarray) -> Float[Tensor, "C H W"]:
    """An 8-bit picture as float32 in [0, 1], channels first (C = 1, 2, 3 or 4 as the picture has)."""
    array = np.array(image, copy=True)
    if array.dtype != np.uint8:
        raise UsageError(f"to_tensor takes 8-bit pictures (see open_image), not {array.dtype}")
    if array.ndim == 2:
        array = array[:, :, None]
    return torch.from_numpy(array).permute(2, 0, 1).contiguous().to(torch.float32).div_(255)


def contained(image: Image.Image, side: int) -> Image.Image:
    """A picture as large as fits into a square of so many pixels, and at least a pixel high and wide."""
    ratio = side / max(image.size)
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    return image.resize(size, Image.Resampling.LANCZOS)


def list_images(
    folder: str | os.PathLike[str],
    *,
    without: str | os.PathLike[str] | None = None,
    skipped: list[tuple[str, str]] | None = None,
) -> list[Path]:
    """Every image file under `folder`, by its suffix, sorted by relative path; hidden files and folders are left out.

    Named pipes, sockets and devices, names that are not UTF-8 and links that lead back to a folder above them are no
    images: they are left out and entered in `skipped`.

    Args:
        folder: where to look.
        without: a folder that is left out where it lies below `folder`, such as that of the results; it need not exist.
        skipped: gets (path, reason) of what was left out.

    Raises:
        DataError: `folder` does not exist or is not a folder. A folder without images gives an empty list.
    """
    root = Path(folder)
    if not root.exists():
        raise DataError(why_no_folder(root))
    if not root.is_dir():
        raise DataError(f"{root}: is a file, not a folder of images")
    names, left_out = list_files(root, suffixes=IMAGE_SUFFIXES, without=without)
    if skipped is not None:
        skipped += [(str(root / name), reason) for name, reason in left_out]
    return [root / name for name in names]


# --- from a file ------------------------------------------------------------------------------------------------------


def _is_file_object(source: object) -> bool:
    return hasattr(source, "read") and not isinstance(source, (str, os.PathLike))


def _stream(source: Any) -> tuple[BinaryFile, str]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(source), f"{len(source)} bytes"
    if _is_file_object(source):
        return source, str(getattr(source, "name", "file object"))
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(
            f"open_image cannot open a {type(source).__name__}: give a path, bytes, a file object, a PIL image, an "
            "array or a tensor"
        )
    name = os.fspath(source)
    if "://" in name:
        raise UsageError(f"{name}: open_image reads files, it does not download; fetch the picture first")
    kind = irregular(name)
    if kind is not None:  # opening it could wait for ever
        raise DataError(f"{name}: is {kind}, not a file")
    try:
        return open(name, "rb"), name
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file") from error
    except IsADirectoryError as error:
        raise DataError(f"{name}: is a folder; list_images finds the pictures in it") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _identify(stream: BinaryFile, name: str, max_pixels: int) -> Image.Image:
    try:
        return open_header(stream)
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: refused as a decompression bomb: {error}") from error
    except UnidentifiedImageError as error:
        raise DataError(f"{name}: {_why_unknown(stream)}") from error
    except Exception as error:  # broken headers make Pillow's plug-ins raise almost anything
        raise DataError(f"{name}: damaged image ({_reason(error)})") from error


def _why_unknown(stream: BinaryFile) -> str:
    """Say what the bytes are instead of an image, where a glance tells."""
    stream.seek(0)
    if not (head := stream.read(64)):
        return "empty file"
    if problem := heif_problem(head):
        return problem
    if b"<svg" in head or head.lstrip().startswith(b"<?xml"):
        return "an SVG or XML file, not a raster image: convert it to PNG first"
    if head.startswith((b"%!PS", b"\xc5\xd0\xd3\xc6", b"%PDF")):
        return "a PostScript or PDF file, not a picture: convert it to PNG first"
    if head.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")):
        return "damaged image (its header cannot be read)"
    return "not an image, or of a format that is not opened"


def _decode(
    image: Image.Image,
    name: str,
    mode: str,
    background: tuple[int, int, int],
    max_pixels: int,
    size_hint: int | None,
) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise _too_large(name, image, max_pixels)
    try:
        if size_hint is not None and image.format in ("JPEG", "MPO"):
            image.draft(image.mode, (size_hint, size_hint))
        image.load()
        upright = _upright(image)
        return _flatten(upright, mode, background)
    except (DataError, UsageError):
        raise
    except Image.DecompressionBombError as error:
        raise DataError(f"{name}: refused as a decompression bomb: {error}") from error
    except Exception as error:  # a damaged file makes the decoders raise almost anything
        raise DataError(f"{name}: damaged image ({_reason(error)})") from error


def _too_large(name: str, image: Image.Image, max_pixels: int) -> DataError:
    return DataError(
        f"{name}: {image.width} x {image.height} is {image.width * image.height:,} pixels, more than the limit of "
        f"{max_pixels:,}: refused as a decompression bomb (max_pixels= raises the limit)"
    )


def _reason(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__


def _upright(image: Image.Image) -> Image.Image:
    """Apply the orientation tag; a tag block that cannot be parsed says nothing about the pixels, so they stay."""
    try:
        return ImageOps.exif_transpose(image)
    except (SyntaxError, ValueError, KeyError, TypeError, OSError, struct.error, OverflowError):
        return image


# --- to 8-bit RGB or RGBA ---------------------------------------------------------------------------------------------


def _flatten(image: Image.Image, mode: str, background: tuple[int, int, int]) -> Image.Image:
    straight = _eight_bit(image)
    if mode == "RGBA":
        return straight if straight.mode == "RGBA" else straight.convert("RGBA")
    return straight if mode == "auto" else composite(straight, background)


def composite(image: Image.Image, background: tuple[int, int, int] = WHITE) -> Image.Image:
    """An RGBA picture laid on a colour (0..255), as RGB; an RGB picture is returned as it is."""
    if image.mode == "RGB":
        return image
    under = Image.new("RGBA", image.size, (*background, 255))
    return Image.alpha_composite(under, image).convert("RGB")


def _eight_bit(image: Image.Image) -> Image.Image:
    """The picture as RGB, or as RGBA where it has transparency."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "RGBA":
        return image
    if image.mode in _CONVERT:
        return _CONVERT[image.mode](image)
    if "transparency" in image.info:
        return _with_transparent_colour(image)
    return image.convert("RGBA" if image.has_transparency_data else "RGB")


def _with_transparent_colour(image: Image.Image) -> Image.Image:
    colour = image.info["transparency"]
    if image.mode == "RGB" and isinstance(colour, tuple) and max(colour) > 255:
        # Pillow keeps the upper byte of 16-bit RGB pixels but the whole of their transparent colour.
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    return image.convert("RGBA")


def _deep_grey(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit and float greyscale: full range to 8 bits, where `convert` would clip."""
    values = np.asarray(image).astype(np.float64)
    grey = Image.fromarray(_to_uint8(values, image.mode), "L")
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey.convert("RGB")
    alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8), "L")
    return Image.merge("RGBA", (grey, grey, grey, alpha))


def _to_uint8(values: np.ndarray, mode: str) -> np.ndarray:
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    if mode.startswith("I;16") or (mode == "I" and low >= 0 and 255 < high <= 65535):
        low, high = 0.0, 65535.0
    elif mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    elif low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    scaled = (values - low) / max(high - low, 1e-300)
    return np.rint(np.nan_to_num(scaled.clip(0, 1), nan=0.0) * 255).astype(np.uint8)


def _cmyk(image: Image.Image) -> Image.Image:
    """Through the embedded profile where there is a usable one: the plain formula gives neon colours."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):  # no usable profile
            return image.convert("RGB")
        if converted is not None:
            return converted
    return image.convert("RGB")


def _lab(image: Image.Image) -> Image.Image:
    transform = ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")
    converted = ImageCms.applyTransform(image, transform)
    if converted is None:
        raise DataError("the colour management module could not convert LAB to RGB")
    return converted


_CONVERT: dict[str, Callable[[Image.Image], Image.Image]] = {
    "I;16": _deep_grey,
    "I;16L": _deep_grey,
    "I;16B": _deep_grey,
    "I;16N": _deep_grey,
    "I": _deep_grey,
    "F": _deep_grey,
    "CMYK": _cmyk,
    "LAB": _lab,
    "La": lambda image: image.convert("LA").convert("RGBA"),
    "RGBa": lambda image: image.convert("RGBA"),
}


# --- from an array ----------------------------------------------------------------------------------------------------


def _from_array(source: np.ndarray | Tensor) -> Image.Image:
    shape = tuple(source.shape)
    if isinstance(source, Tensor):
        held = source.detach().cpu()
        array = held.float().numpy() if held.is_floating_point() else held.numpy()
        layout = "(H, W) or (1|2|3|4, H, W)"
        if array.ndim == 3 and array.shape[0] in (1, 2, 3, 4):
            array = array.transpose(1, 2, 0)
        elif array.ndim == 3:
            raise UsageError(f"a tensor of shape {shape} is not one image: it must be {layout}")
    else:
        array, layout = source, "(H, W) or (H, W, 1|2|3|4)"
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[2] not in (1, 2, 3, 4) or 0 in array.shape:
        raise UsageError(f"an array of shape {shape} is not one image: it must be {layout}")
    eight = np.ascontiguousarray(_array_to_uint8(array))
    kind = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[eight.shape[2]]
    return Image.fromarray(eight[:, :, 0] if kind == "L" else eight, kind)


def _array_to_uint8(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    if array.dtype == np.bool_:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return np.rint(array.astype(np.float64) / 257).astype(np.uint8)
    if not np.issubdtype(array.dtype, np.floating):
        raise UsageError(f"image values are {array.dtype}: use uint8, uint16, bool, or float in [0, 1]")
    low, high = float(array.min()), float(array.max())
    if not (low >= -1e-4 and high <= 1 + 1e-4):  # also catches NaN
        raise UsageError(f"float images are in [0, 1], these values run from {low:g} to {high:g}")
    return np.rint(array.astype(np.float64).clip(0, 1) * 255).astype(np.uint8)
