"""Pictures of two blocks: one decides the class, the other says nothing; an exact truth for attribution."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.sets.dataset import ImageTextDataset
from binderclip.data.uniform import uniform
from binderclip.errors import UsageError
from binderclip.settings import check_choice

Null = Literal["cross", "texture"]
Place = Literal["random", "top", "bottom"]
# Of the null pattern: half the side of the square outline as a share of the block, and lines a block.
REACH, LINES = 0.34, 14


class BlockDataset:
    """BlockMNIST: each picture is a signal block and a null block, one above the other.

    The signal block is a picture with its class; the null block is the same for all classes, so it has no information
    about them. A map that is to show what decides must stay within `signal`. Where the blocks lie and what a random
    null block looks like is a hash of (seed, key) and of nothing else.

    Args:
        images: (N, C, h, w) in [0, 1].
        labels: (N,) classes.
        keys: one name a picture; default their numbers.
        null: `"cross"`, a square outline with its diagonals, the same in every picture, as in the paper; `"texture"`,
            a random grey texture of its own for each picture; or a picture (C, h, w).
        signal_at: `"random"` puts the signal block on top with probability one half; `"top"` (the paper's variant whose
            null block is always below) or `"bottom"`.
        colours: (ground, ink) of the cross, in [0, 1]. Default: the pictures' own ground, 0 or 1, whichever is nearer
            to the median of all their border pixels, and the other one.
        seed: any integer.

    Attributes:
        images: (N, C, 2 h, w).
        labels: (N,).
        keys: names.
        signal: (N, 2 h, w), True in the signal block.
        signal_on_top: (N,).

    Raises:
        UsageError: shapes that do not match, values outside [0, 1], an unknown null block or place.

    Examples:
        >>> blocks = BlockDataset(torch.rand(6, 1, 28, 28), torch.arange(6) % 2)
        >>> blocks.images.shape, int(blocks.signal[0].sum()) == 28 * 28
        (torch.Size([6, 1, 56, 28]), True)

    Paper: Do Input Gradients Highlight Discriminative Features? (arXiv 2102.12781).
    """

    def __init__(
        self,
        images: Float[Tensor, "N C h w"],
        labels: Int[Tensor, "N"],
        keys: Sequence[str] | None = None,
        *,
        null: Null | Tensor = "cross",
        signal_at: Place = "random",
        colours: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> None:
        if images.ndim != 4 or not images.is_floating_point() or not len(images):
            raise UsageError(f"BlockDataset takes float images (N, C, h, w), got {images.dtype} {tuple(images.shape)}")
        if images.min() < 0 or images.max() > 1:
            raise UsageError(f"images run from {images.min():.3g} to {images.max():.3g}; pixels are in [0, 1]")
        self.keys = [str(i) for i in range(len(images))] if keys is None else list(keys)
        if labels.shape != images.shape[:1] or len(self.keys) != len(images):
            raise UsageError(f"{len(images)} images, but labels {tuple(labels.shape)} and {len(self.keys)} keys")
        check_choice("signal_at", signal_at, ("random", "top", "bottom"))
        self.labels = labels
        self.signal_on_top: Bool[Tensor, "N"] = self._places(signal_at, seed)
        nulls = self._nulls(images, null, colours, seed)
        top = self.signal_on_top[:, None, None, None]
        self.images: Float[Tensor, "N C 2h w"] = torch.cat(
            [torch.where(top, images, nulls), torch.where(top, nulls, images)], dim=2
        )
        height, width = images.shape[-2:]
        above = torch.arange(2 * height)[:, None].expand(2 * height, width) < height
        self.signal: Bool[Tensor, "N 2h w"] = above == self.signal_on_top[:, None, None]

    @classmethod
    def from_dataset(
        cls,
        dataset: ImageTextDataset,
        size: int,
        *,
        classes: Sequence[str] | None = None,
        grey: bool = False,
        null: Null | Tensor = "cross",
        signal_at: Place = "random",
        colours: tuple[float, float] | None = None,
        seed: int = 0,
    ) -> BlockDataset:
        """Blocks from any labelled set: digits, Fashion-MNIST, clip art.

        Args:
            dataset: pictures; those without a label, or of other classes, are left out.
            size: side of a block in pixels.
            classes: names to keep, numbered in this order; default all classes of the set.
            grey: one channel, the mean of three.
            null, signal_at, colours, seed: see the class.

        Raises:
            UsageError: a class that the set does not have, or no picture left.
        """
        names = list(dataset.classes if classes is None else classes)
        unknown = [name for name in names if name not in dataset.classes]
        if unknown:
            shown = ", ".join(list(dataset.classes)[:12])
            raise UsageError(f"class {unknown[0]!r} is not in this set: {shown}")
        number = {list(dataset.classes).index(name): i for i, name in enumerate(names)}
        rows = [row for row, label in enumerate(dataset.labels.tolist()) if label in number]
        if not rows:
            raise UsageError("no picture of the set has one of these classes")
        pixels, kept = dataset.subset(rows).pixels(size, mode="RGB")
        images = pixels.float() / 255
        images = images.mean(dim=1, keepdim=True) if grey else images
        labels = torch.tensor([number[label] for label in kept.labels.tolist()])
        return cls(images, labels, kept.keys, null=null, signal_at=signal_at, colours=colours, seed=seed)

    def __len__(self) -> int:
        return len(self.images)

    def blocks(self) -> tuple[Float[Tensor, "N C h w"], Float[Tensor, "N C h w"]]:
        """The signal blocks and the null blocks, wherever they lie."""
        top, bottom = self.images.chunk(2, dim=2)
        first = self.signal_on_top[:, None, None, None]
        return torch.where(first, top, bottom), torch.where(first, bottom, top)

    def _places(self, signal_at: Place, seed: int) -> Bool[Tensor, "N"]:
        if signal_at != "random":
            return torch.full((len(self.keys),), signal_at == "top")
        # A stream of its own: augmentations of the same pictures use the same seeds and keys.
        draws = uniform(seed, [f"block-place/{key}" for key in self.keys], 0, 1)[:, 0]
        return torch.from_numpy(draws < 0.5)

    def _nulls(
        self, images: Tensor, null: Null | Tensor, colours: tuple[float, float] | None, seed: int
    ) -> Float[Tensor, "N C h w"]:
        shape = images.shape
        if isinstance(null, Tensor):
            if null.shape != shape[1:]:
                raise UsageError(f"the null block is {tuple(null.shape)}, the images' blocks {tuple(shape[1:])}")
            return null.to(images).expand(shape)
        if null == "texture":
            side = max(2, min(shape[-2:]) // 4)
            draws = uniform(seed, [f"block-texture/{key}" for key in self.keys], 0, side * side)
            coarse = torch.from_numpy(draws.astype(np.float32)).reshape(-1, 1, side, side).to(images)
            return F.interpolate(coarse, size=shape[-2:], mode="bilinear").expand(shape)
        if null != "cross":
            raise UsageError(f"null must be cross, texture or a picture (C, h, w), not {null!r}")
        ground, ink = _ground(images) if colours is None else colours
        drawn = _cross(shape[-2], shape[-1]).to(images.device)
        return torch.where(drawn, images.new_tensor(float(ink)), images.new_tensor(float(ground))).expand(shape)


def _ground(images: Float[Tensor, "N C h w"]) -> tuple[float, float]:
    border = torch.cat([images[..., 0, :], images[..., -1, :], images[..., 0], images[..., -1]], dim=-1)
    ground = float(border.median() >= 0.5)
    return ground, 1 - ground


def _cross(height: int, width: int) -> Bool[Tensor, "h w"]:
    """A square outline with both diagonals, lines of about a fourteenth of the side."""
    v, u = ((torch.arange(side) + 0.5) / side - 0.5 for side in (height, width))
    rows, columns = torch.meshgrid(v, u, indexing="ij")
    half = max(1, round(min(height, width) / LINES)) / 2 / min(height, width) + 1e-6
    reach = torch.maximum(rows.abs(), columns.abs())
    outline = (reach - REACH).abs() <= half
    diagonals = torch.minimum((rows - columns).abs(), (rows + columns).abs()) <= half
    return outline | (diagonals & (reach <= REACH))
