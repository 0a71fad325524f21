"""Many pictures through one model: files are opened in threads while the model works on the batch before.

Opening a file (reading, decoding, resizing) runs without Python's lock, so a few threads keep two cores busy without
the copies that worker processes need; batches stay 8-bit until they are on the device.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.errors import BinderclipError, DataError, UsageError
from binderclip.models.image_text.preprocess import ImageLike, Preprocess
from binderclip.settings import check_choice

if TYPE_CHECKING:
    from binderclip.models.image_text.model import ImageTextModel

OnError = Literal["raise", "skip"]

CPU_BATCH = 16
"""On a processor a larger batch only leaves the caches: `small` takes 15 ms an image in batches of 16, 19 in 64s."""


@dataclass(frozen=True)
class EncodedImages:
    """Features of the images that could be read.

    Args:
        features: (N, E), or (N, V, E) for V views of each image, raw unless they were asked for normalised.
        paths: the N sources, as given.
        index: the N positions of these sources in the input.
        skipped: (key, reason) of the images left out; the key is the path, or the position for other sources.
    """

    features: Float[Tensor, "N *V E"]
    paths: list[ImageLike]
    index: list[int]
    skipped: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def keys(self) -> list[str]:
        """Names of the N images: paths, or positions for other sources."""
        return [key_of(path, i) for path, i in zip(self.paths, self.index, strict=True)]


def key_of(source: ImageLike, position: int) -> str:
    """The name of one image in reports."""
    return str(source) if isinstance(source, (str, os.PathLike)) else str(position)


def opened_ahead(
    pixels: Callable[[ImageLike], np.ndarray], sources: Sequence[ImageLike], ahead: int, workers: int | None = None
) -> Iterator[tuple[int, np.ndarray | BinderclipError]]:
    """(position, pixels or the error), in order; opened in threads, and at most `ahead` pictures are held at once.

    Args:
        pixels: opens one picture; its `DataError` stands in the place of the pixels.
        sources: to be opened.
        ahead: pictures that are opened before they are asked for.
        workers: threads; default the number of processors, at most 8.
    """
    workers = workers or min(8, os.cpu_count() or 1)

    def open_one(source: ImageLike) -> np.ndarray | BinderclipError:
        try:
            return pixels(source)
        except DataError as error:
            return error

    pending: deque[tuple[int, Future[np.ndarray | BinderclipError]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="binderclip-open")
    try:
        for position, source in enumerate(sources):
            if isinstance(source, Image.Image):
                # A lazily opened PIL image cannot be decoded by two threads at once, and may be listed twice.
                done: Future[np.ndarray | BinderclipError] = Future()
                done.set_result(open_one(source))
                pending.append((position, done))
            else:
                pending.append((position, pool.submit(open_one, source)))
            if len(pending) >= ahead:
                first, future = pending.popleft()
                yield first, future.result()
        while pending:
            first, future = pending.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def encode_files(
    model: ImageTextModel,
    sources: Sequence[ImageLike],
    *,
    batch_size: int = 64,
    normalize: bool = False,
    size: int | tuple[int, int] | None = None,
    on_error: OnError = "skip",
    workers: int | None = None,
    progress: Callable[[int], object] | None = None,
) -> EncodedImages:
    """Encode many pictures without gradients.

    Args:
        model: encodes.
        sources: paths, bytes, PIL images, arrays (H, W, C), 8-bit tensors (C, H, W).
        batch_size: images that go through the model at once, at most (a processor takes fewer, see `CPU_BATCH`).
        normalize: rows of length one instead of raw features.
        size: input side or (h, w); default the model's.
        on_error: `skip` leaves an unreadable picture out and reports it, `raise` stops at it.
        workers: threads that open pictures; default the number of processors, at most 8.
        progress: called with the number of pictures done after every batch.

    Raises:
        DataError: an unreadable picture, with `on_error="raise"`.
        UsageError: `batch_size` or `workers` below 1, or another `on_error`.
    """
    if batch_size < 1 or (workers is not None and workers < 1):
        raise UsageError(f"batch_size ({batch_size}) and workers ({workers}) must be at least 1")
    check_choice("on_error", on_error, ("raise", "skip"))
    preprocess = model.preprocess.at(size)
    step = min(batch_size, CPU_BATCH) if model.device.type == "cpu" else batch_size
    kept: list[int] = []
    skipped: list[tuple[str, str]] = []
    chunks: list[Tensor] = []
    waiting: list[np.ndarray] = []

    def flush() -> None:
        if waiting:
            chunks.append(_forward(model, preprocess, waiting))
            waiting.clear()
            if progress is not None:
                progress(len(kept) + len(skipped))

    for position, pixels in opened_ahead(preprocess.pixels, sources, 3 * step, workers):
        if isinstance(pixels, BinderclipError):
            if on_error == "raise":
                raise pixels
            skipped.append((key_of(sources[position], position), str(pixels)))
            continue
        kept.append(position)
        waiting.append(pixels)
        if len(waiting) == step:
            flush()
    flush()
    # Joined outside inference mode, so that the result is an ordinary tensor that training code may use.
    features = torch.cat(chunks) if chunks else torch.zeros(0, model.embed_dim, device=model.device)
    if normalize:
        features = torch.nn.functional.normalize(features, dim=-1)
    return EncodedImages(features, [sources[i] for i in kept], kept, skipped)


def _forward(model: ImageTextModel, preprocess: Preprocess, pixels: list[np.ndarray]) -> Tensor:
    batch = torch.from_numpy(np.stack(pixels))
    if model.device.type == "cuda":
        batch = batch.pin_memory()
    with torch.inference_mode():
        return model.encode_pixels(preprocess.normalize_pixels(batch.to(model.device, non_blocking=True)))
