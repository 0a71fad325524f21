"""Batches of overlapping crops at rising levels of a distortion, for learning to order them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data.distortions.library import LEVELS, distort, library_named
from binderclip.data.images import open_header, open_image, to_tensor
from binderclip.errors import DataError, UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.quality.score.native_files import reduced_picture


class DegradedCrops:
    """Endless batches (B, 2, 5, 3, s, s): two overlapping crops of each picture at the five levels of one distortion.

    A family of distortions is drawn first and one of its kinds then, so that large families count no more. Both crops
    and all levels share the random numbers of the distortion, such as its direction. Every pass has a new order; draws
    depend on the seed, the picture and the pass.

    Args:
        images: paths, PIL images, arrays or tensors, free of distortions.
        crop: side of the crops in pixels.
        kinds: names in the library; None: those whose levels rise.
        batch_size: pictures a batch; the last of a pass may be smaller.
        longest: larger pictures are reduced to this longer side first; None for never.
        seed: of all draws.
        library: of the distortions, as `data.distort` takes it.

    Raises:
        UsageError: no image, an unknown kind, or a size below 1.
        DataError: a picture that cannot be read, or is smaller than the crop.
    """

    def __init__(
        self,
        images: Sequence[ImageLike],
        crop: int,
        *,
        kinds: Sequence[str] | None = None,
        batch_size: int = 16,
        longest: int | None = None,
        seed: int = 0,
        library: str = "binderclip",
    ) -> None:
        if not len(images):
            raise UsageError("images is empty: give at least one picture without distortions")
        if min(crop, batch_size) < 1:
            raise UsageError(f"crop and batch_size must be at least 1, got {crop} and {batch_size}")
        distortions = library_named(library)
        names = distortions.ordered if kinds is None else kinds
        if unknown := [kind for kind in names if kind not in distortions.kinds]:
            raise UsageError(f"kinds {unknown[0]!r} is unknown; use {', '.join(distortions.kinds)}")
        self.library = library
        groups = [[kind for kind in family if kind in names] for family in distortions.families.values()]
        self.groups = [group for group in groups if group]
        if not self.groups:
            raise UsageError("kinds is empty: name at least one distortion")
        self.images, self.crop, self.batch_size, self.longest, self.seed = images, crop, batch_size, longest, seed
        self.epoch = 0
        for row, image in enumerate(images):
            self._need(row, *_size(image))

    def _need(self, row: int, height: int, width: int) -> None:
        reduced = min(1.0, (self.longest or max(height, width)) / max(height, width))
        if round(min(height, width) * reduced) < self.crop:
            source = self.images[row]
            name = str(source) if isinstance(source, (str, os.PathLike)) else f"picture {row}"
            raise DataError(f"{name}: {height} x {width} pixels are too few for crops of {self.crop}: a smaller crop=")

    def __iter__(self) -> Iterator[Float[Tensor, "B 2 5 3 s s"]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images)).tolist()
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            yield torch.stack([self._levels(row, np.random.default_rng([self.seed, epoch, row])) for row in rows])

    def _levels(self, row: int, rng: np.random.Generator) -> Float[Tensor, "2 5 3 s s"]:
        picture = self._opened(self.images[row])
        group = self.groups[rng.integers(len(self.groups))]
        kind, seed = group[rng.integers(len(group))], int(rng.integers(2**31))
        room = [side - self.crop for side in picture.shape[1:]]
        corner = [int(rng.integers(most + 1)) for most in room]
        reach = self.crop // 2  # the second crop shares at least half of each side with the first
        near = [
            int(rng.integers(max(0, at - reach), min(most, at + reach) + 1))
            for at, most in zip(corner, room, strict=True)
        ]
        crops = torch.stack([picture[:, y : y + self.crop, x : x + self.crop] for y, x in (corner, near)])
        repeated = crops.repeat_interleave(LEVELS, 0)  # (10, 3, s, s)
        levels = [*range(1, LEVELS + 1)] * 2
        return distort(repeated, kind, levels, [seed] * len(repeated), library=self.library).unflatten(0, (2, LEVELS))

    def _opened(self, source: ImageLike) -> Float[Tensor, "3 h w"]:
        return to_tensor(reduced_picture(open_image(source, mode="RGB"), self.longest))


def _size(image: ImageLike) -> tuple[int, int]:
    """(h, w), of a file from its header."""
    if isinstance(image, (str, os.PathLike)):
        with open_header(image) as picture:
            return picture.height, picture.width
    picture = open_image(image, mode="RGB")
    return picture.height, picture.width
