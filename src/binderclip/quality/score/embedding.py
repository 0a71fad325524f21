"""Image embeddings at a picture's own size: resizing would hide the very distortions that a score is after."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.images import open_image
from binderclip.errors import DataError, NotSupported, UsageError
from binderclip.models.checks import refuse_bare_module
from binderclip.models.image_text.encode import EncodedImages, OnError
from binderclip.models.image_text.model import ImageTextModel
from binderclip.models.image_text.preprocess import ImageLike, float_batch
from binderclip.models.towers.base import Tower
from binderclip.models.towers.kinds.convolutional import ConvolutionalTower, ResNetMap
from binderclip.quality.score.native_files import embedded_files, reduced_picture, reduced_size
from binderclip.settings import check_choice

Positions = Literal["auto", "drop", "interpolate"]


@dataclass(frozen=True)
class NativeEmbedding:
    """Embed pictures of any size, without a resize.

    A transformer sees the centre of a picture, cut to a multiple of its patch, its positional embedding interpolated
    to the grid. A convolutional tower sees the whole picture; the attention pooling of CLIP's ResNets works without its
    positional embedding, as in CLIP-IQA (arXiv 2207.12396).

    Args:
        model: with an image tower that `model.dense_tower` opens.
        positions: `drop` (ResNets alone) leaves the positional embedding out; `interpolate` keeps it; `auto` drops it
            where it can be dropped.
        longest: larger pictures are reduced to this longer side in pixels (bicubic, antialiased); None for never. The
            attention of a transformer grows with the square of a picture's area.

    Raises:
        UsageError: an unknown value of `positions`, or `longest` below 1.
        NotSupported: positions that cannot be dropped, or a tower that cannot be opened.
    """

    model: ImageTextModel
    positions: Positions = "auto"
    longest: int | None = None

    def __post_init__(self) -> None:
        refuse_bare_module(self.model, "NativeEmbedding")
        check_choice("positions", self.positions, get_args(Positions))
        if self.longest is not None and self.longest < 1:
            raise UsageError(f"longest must be at least 1 pixel, not {self.longest}")
        if self.positions == "drop" and not isinstance(self.tower, ResNetMap):
            raise NotSupported(
                "positions='drop': only the attention pooling of CLIP's ResNets works without positions, this tower "
                f"is of kind {self.tower.kind}; 'interpolate' fits any size"
            )

    @property
    def tower(self) -> Tower:
        """What the pictures go through."""
        return self.model.dense_tower

    @property
    def unit(self) -> int:
        """Pixels that both sides are cut to a multiple of: the patch of a transformer, else 1."""
        return 1 if isinstance(self.tower, ConvolutionalTower) else self.tower.patch

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        """Raw features; gradients reach the pixels.

        Args:
            images: in [0, 1], of one size.

        Raises:
            UsageError: another shape or range.
            DataError: a picture smaller than a patch.
        """
        batch = float_batch(images)
        if batch is None:
            raise UsageError(f"a batch of float images (B, 3, H, W) in [0, 1] is needed, not {type(images).__name__}")
        height, width = reduced_size(batch.shape[2], batch.shape[3], self.longest)
        if (height, width) != tuple(batch.shape[2:]):
            batch = F.interpolate(batch, (height, width), mode="bicubic", antialias=True).clamp(0, 1)
        top, left, height, width = self._cut(height, width, "a picture")
        return self._features(batch[..., top : top + height, left : left + width])

    def _features(self, batch: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B E"]:
        tower = self.tower
        pixels = self.model.preprocess.normalize(batch.to(tower.device)).to(tower.dtype)
        if isinstance(tower, ResNetMap):
            features = tower.attend(tower.feature_map(pixels), positions=self.positions == "interpolate")
        elif isinstance(tower, ConvolutionalTower):
            features = tower.project(tower.pool_map(tower.feature_map(pixels)))
        else:
            features = tower(pixels)
        return features.float() if features.dtype in (torch.float16, torch.bfloat16) else features

    def _cut(self, height: int, width: int, name: str) -> tuple[int, int, int, int]:
        """(top, left, h, w) of the centre that is a multiple of the unit."""
        least = self.tower.patch
        if min(height, width) < least:
            raise DataError(f"{name}: {height} x {width} pixels, this model needs {least} on either side")
        h, w = height // self.unit * self.unit, width // self.unit * self.unit
        return (height - h) // 2, (width - w) // 2, h, w

    def pixels(self, source: ImageLike) -> UInt8[np.ndarray, "h w 3"]:
        """One picture as the model gets it, 8-bit.

        Raises:
            DataError: it cannot be read, or is smaller than a patch.
        """
        opened = open_image(source, mode="RGB", background=self.model.preprocess.background)
        picture = reduced_picture(opened, self.longest)
        name = str(source) if isinstance(source, (str, os.PathLike)) else "a picture"
        if picture.size != opened.size:
            name = f"{name}, reduced to {self.longest} px"
        top, left, height, width = self._cut(picture.height, picture.width, name)
        return np.asarray(picture)[top : top + height, left : left + width]

    def files(
        self,
        sources: Sequence[ImageLike],
        *,
        batch_size: int = 64,
        on_error: OnError = "skip",
        progress: Callable[[int], object] | None = None,
    ) -> EncodedImages:
        """Embed pictures of any sizes, without gradients; neighbours of one size share a batch.

        Args:
            sources: paths, bytes, PIL images, arrays, 8-bit tensors.
            batch_size: pictures that go through the model at once, at most.
            on_error: `skip` leaves out what cannot be read and reports it, `raise` stops at it.
            progress: called with the number of pictures done after every batch.

        Raises:
            DataError: an unreadable picture, with `on_error="raise"`.
            UsageError: `batch_size` below 1.
        """
        return embedded_files(
            self.pixels, self._features, sources, width=self.model.embed_dim, device=self.tower.device,
            batch_size=batch_size, on_error=on_error, progress=progress,
        )  # fmt: skip
