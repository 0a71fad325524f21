"""Features of many pictures at their own sizes, neighbours of one size in one batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from binderclip.errors import BinderclipError
from binderclip.models.image_text.encode import CPU_BATCH, EncodedImages, OnError, key_of, opened_ahead
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.numeric import check_number


def embedded_files(
    pixels: Callable[[ImageLike], UInt8[np.ndarray, "h w 3"]],
    features: Callable[[Float[Tensor, "B 3 h w"]], Float[Tensor, "B E"]],
    sources: Sequence[ImageLike],
    *,
    width: int,
    device: torch.device,
    batch_size: int = 64,
    on_error: OnError = "skip",
    progress: Callable[[int], object] | None = None,
) -> EncodedImages:
    """Features of pictures, without gradients.

    Args:
        pixels: opens one picture; a `DataError` leaves it out.
        features: of a batch in [0, 1].
        sources: paths, bytes, PIL images, arrays, 8-bit tensors.
        width: E.
        device: where `features` works.
        batch_size: pictures that go through `features` at once, at most.
        on_error: `skip` leaves out what cannot be read and reports it, `raise` stops at it.
        progress: called with the number of pictures done after every batch.

    Raises:
        DataError: an unreadable picture, with `on_error="raise"`.
        UsageError: `batch_size` below 1.
    """
    check_number("batch_size", batch_size, least=1)
    step = min(batch_size, CPU_BATCH) if device.type == "cpu" else batch_size
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []
    chunks: list[Tensor] = []
    waiting: list[np.ndarray] = []

    def flush() -> None:
        if waiting:
            batch = torch.from_numpy(np.stack(waiting)).permute(0, 3, 1, 2).float() / 255
            with torch.no_grad():
                chunks.append(features(batch))
            waiting.clear()
            if progress is not None:
                progress(len(kept) + len(skipped))

    for position, pixels_of in opened_ahead(pixels, sources, 2 * step):
        if isinstance(pixels_of, BinderclipError):
            if on_error == "raise":
                raise pixels_of
            skipped.append((key_of(sources[position], position), str(pixels_of)))
            continue
        if waiting and waiting[0].shape != pixels_of.shape:
            flush()
        kept.append(position)
        waiting.append(pixels_of)
        if len(waiting) == step:
            flush()
    flush()
    joined = torch.cat(chunks) if chunks else torch.zeros(0, width, device=device)
    return EncodedImages(joined, [sources[i] for i in kept], kept, skipped)


def reduced_size(height: int, width: int, longest: int | None) -> tuple[int, int]:
    """(h, w) of a picture whose longer side is `longest` pixels at most; None for as it is."""
    if longest is None or max(height, width) <= longest:
        return height, width
    ratio = longest / max(height, width)
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def reduced_picture(picture: Image.Image, longest: int | None) -> Image.Image:
    """A picture at `reduced_size`, bicubic."""
    height, width = reduced_size(picture.height, picture.width, longest)
    if picture.size == (width, height):
        return picture
    return picture.resize((width, height), Image.Resampling.BICUBIC)
