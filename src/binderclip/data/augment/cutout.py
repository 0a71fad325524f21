"""Cutout: random squares of every training picture are taken away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.data.augment.fill import Fill
from binderclip.data.uniform import uniform
from binderclip.errors import UsageError


@dataclass(frozen=True)
class Cutout:
    """Fill a square at a random place of every picture, so that a network cannot rely on one part of an object.

    The centre of a hole is uniform over the pixels, so a hole may lie partly outside. Where the holes of a picture lie
    depends on (seed, its key, the epoch) only, and each picture of a batch has its own. It belongs after crops and
    mirrors: `Augment(size, cutout=Cutout(16))` does so.

    Args:
        length: side of a hole in pixels, or a float in (0, 1) as a fraction of the shorter side of the picture. An odd
            side n removes n - 1 pixels, as the paper's program does; see `exact`.
        n_holes: holes a picture; they may overlap.
        p: probability that a picture gets its holes. Default 1.
        fill: what holes are filled with: a number, one number a channel, or a `Fill`. 0 is the mean of pictures that
            are normalised already; for pixels in [0, 1] pass the mean colour of the data.
        inside: keep each hole wholly within the picture (with p = 0.5 the paper's alternative).
        exact: an odd side removes exactly so many pixels.
        seed: any integer.

    Call it with images (B, C, H, W) of any range, `keys`, B strings, and the `epoch`; the result is a new tensor.
    `boxes` says where the holes are, for masks and annotations; labels stay as they are.

    Raises:
        UsageError: a setting is out of range, or there are not as many keys as pictures.

    Paper: Improved Regularization of Convolutional Neural Networks with Cutout (arXiv 1708.04552).

    Examples:
        >>> images = torch.ones(2, 3, 32, 32)
        >>> holed = Cutout(16, inside=True)(images, ["a", "b"], epoch=0)
        >>> (holed == 0).sum(dim=(1, 2, 3)).tolist()  # 16 x 16 pixels of three channels
        [768, 768]
    """

    length: int | float
    n_holes: int = 1
    p: float = 1.0
    fill: float | Sequence[float] | Fill = 0.0
    inside: bool = False
    exact: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        whole = float(self.length).is_integer()
        if self.length < 0 or not (whole or self.length < 1):
            raise UsageError(
                f"Cutout: length is {self.length}; it is a number of pixels, or a fraction of the side below 1"
            )
        if self.n_holes < 1:
            raise UsageError(f"Cutout: n_holes is {self.n_holes}; it is at least 1")
        if not 0 <= self.p <= 1:
            raise UsageError(f"Cutout: p is {self.p}; it is a probability")

    def side(self, height: int, width: int) -> int:
        """Side of a whole hole in pixels in pictures of this size."""
        fraction = 0 < self.length < 1
        pixels = round(self.length * min(height, width)) if fraction else int(self.length)
        return pixels if self.exact else pixels // 2 * 2

    def boxes(self, keys: Sequence[str], size: tuple[int, int], *, epoch: int = 0) -> Int[np.ndarray, "B n_holes 4"]:
        """Half-open (x0, y0, x1, y1) of the visible part of every hole; empty ones where a picture gets none.

        Args:
            keys: of the pictures.
            size: (h, w) of the pictures.
            epoch: pass over the data.
        """
        # Another stream than that of `Augment`, whose crops have the same seeds and keys.
        names = [f"cutout/{key}" for key in keys]
        u = uniform(self.seed, names, epoch, 1 + 2 * self.n_holes).astype(np.float64)
        extent = np.array(size)  # the row is drawn before the column
        side = self.side(*size)
        places = u[:, 1:].reshape(-1, self.n_holes, 2)
        if self.inside:
            start = (places * np.maximum(extent - side + 1, 1)).astype(np.int64)
        else:
            start = (places * extent).astype(np.int64) - side // 2
        ends = np.stack([start, start + side], 2).clip(0, extent)  # (B, holes, start and end, row and column)
        boxes = ends[..., ::-1].reshape(-1, self.n_holes, 4)
        return np.where((u[:, 0] < self.p)[:, None, None], boxes, 0)

    def keep(
        self, keys: Sequence[str], size: tuple[int, int], *, epoch: int = 0, device: torch.device | str = "cpu"
    ) -> Bool[Tensor, "B H W"]:
        """Which pixels stay; arguments as of `boxes`."""
        x0, y0, x1, y1 = torch.from_numpy(self.boxes(keys, size, epoch=epoch)).to(device)[..., None].unbind(2)
        rows, columns = (torch.arange(extent, device=device) for extent in size)
        down, along = (rows >= y0) & (rows < y1), (columns >= x0) & (columns < x1)
        return ~(down[..., :, None] & along[..., None, :]).any(1)

    def __call__(
        self, images: Float[Tensor, "B C H W"], keys: Sequence[str], epoch: int = 0
    ) -> Float[Tensor, "B C H W"]:
        if images.ndim != 4 or not images.is_floating_point():
            raise UsageError(f"Cutout takes float images (B, C, H, W), got {images.dtype} {tuple(images.shape)}")
        if len(keys) != len(images):
            raise UsageError(f"Cutout: {len(keys)} keys for {len(images)} pictures")
        height, width = images.shape[-2:]
        fill = self.fill if isinstance(self.fill, Fill) else Fill("zero", value=self.fill)
        kept = self.keep(keys, (height, width), epoch=epoch, device=images.device)[:, None]
        return torch.where(kept, images, fill(images))
