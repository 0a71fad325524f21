"""Features of an image network's middle, place by place: what PatchCore and PaDiM compare normal pictures by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import NotSupported, UsageError

SIGMA = 4.0
"""Standard deviation of the blur of maps, in pixels of the network's input, as in both papers."""


@dataclass(frozen=True)
class MidLevelFeatures:
    """Features of B pictures on one grid.

    Attributes:
        values: (B, h, w, D), the maps of all strides on the finest grid, channels side by side.
        size: (h, w) of the network's input in pixels.
    """

    values: Float[Tensor, "B h w D"]
    size: tuple[int, int]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> MidLevelFeatures:
        return replace(self, values=self.values[rows])


@torch.no_grad()
def mid_level_features(
    backbone: Any,
    images: Any,
    *,
    strides: Sequence[int],
    size: int | None = None,
    neighbourhood: int = 1,
    batch_size: int = 16,
) -> MidLevelFeatures:
    """The maps of several strides, each averaged over a neighbourhood, coarse ones resized to the finest, stacked.

    Args:
        backbone: an `ImageClassifier`, such as `load_vision("lite0")`.
        images: one or many, anything the backbone takes; squashed to a square, since a crop would hide a border.
        strides: pixels a cell, of those the backbone has.
        size: side of the input in pixels; None for the backbone's own.
        neighbourhood: side of the average in cells, odd; 1 for none.
        batch_size: pictures that go through at once.

    Raises:
        UsageError: no picture, no stride or one the backbone does not have, an even neighbourhood.
        NotSupported: a backbone without maps.
        DataError: a picture that cannot be read.
    """
    if not hasattr(backbone, "feature_maps"):
        raise NotSupported(f"{type(backbone).__name__} gives no maps of its middle: take load_vision('lite0')")
    if neighbourhood < 1 or neighbourhood % 2 == 0:
        raise UsageError(f"neighbourhood must be odd, such as 3, not {neighbourhood}")
    if not strides:
        raise UsageError("strides is empty: give at least one, such as (8, 16)")
    items = list(images) if isinstance(images, (list, tuple)) else images
    if isinstance(items, (list, Tensor)) and not len(items):
        raise UsageError("images is empty: give at least one")
    before = backbone.preprocess
    # A crop would hide a damaged border.
    backbone.preprocess = replace(before.at(size), resize_mode="squash")
    try:
        maps = backbone.feature_maps(items, strides=sorted(strides), batch_size=batch_size)
        side = backbone.preprocess.size
    finally:
        backbone.preprocess = before
    if neighbourhood > 1:
        # The border counts as if nothing were beyond it.
        pad = neighbourhood // 2
        maps = [F.avg_pool2d(each, neighbourhood, 1, pad, count_include_pad=False) for each in maps]
    grid = maps[0].shape[-2:]
    resized = [maps[0], *(F.interpolate(each, size=grid, mode="bilinear", align_corners=False) for each in maps[1:])]
    return MidLevelFeatures(torch.cat(resized, dim=1).permute(0, 2, 3, 1).contiguous(), (int(side[0]), int(side[1])))


def blurred_maps(distances: Float[Tensor, "B h w"], size: tuple[int, int], sigma: float) -> Float[Tensor, "B H W"]:
    """Distances of cells as maps of the network's input, bilinear, then blurred by a Gaussian (reflecting borders)."""
    maps = F.interpolate(distances[:, None], size=size, mode="bilinear", align_corners=False)
    if sigma <= 0:
        return maps[:, 0]
    radius = min(int(4 * sigma + 0.5), min(size) - 1)
    offsets = torch.arange(-radius, radius + 1, dtype=maps.dtype, device=maps.device)
    kernel = (-0.5 * (offsets / sigma).square()).exp()
    kernel = kernel / kernel.sum()
    maps = F.conv2d(F.pad(maps, (radius, radius, 0, 0), mode="reflect"), kernel.view(1, 1, 1, -1))
    return F.conv2d(F.pad(maps, (0, 0, radius, radius), mode="reflect"), kernel.view(1, 1, -1, 1))[:, 0]
