"""Where a model's square input lies in the image, and drawing a coarse map at its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels of an image: top, left, height, width; fractions and parts outside are allowed."""

    top: float
    left: float
    height: float
    width: float


def whole(size: tuple[int, int]) -> Box:
    """The box of a whole image of `size` (h, w)."""
    return Box(0.0, 0.0, float(size[0]), float(size[1]))


def input_box(preprocess: Any, size: tuple[int, int]) -> Box:
    """The part of an image of `size` (h, w) that the model's input shows.

    A centre crop shows less than the image, padding more; squashing shows exactly the image.
    """
    height, width = size
    fitted = preprocess.resized(height, width)
    sides = []
    for full, got, want in zip(size, fitted, preprocess.size, strict=True):
        # Whole pixels, rounded as the preprocessing does for crops and paddings.
        start = round((got - want) / 2.0) if got >= want else -((want - got) // 2)
        sides.append((start * full / got, want * full / got))
    return Box(sides[0][0], sides[1][0], sides[0][1], sides[1][1])


def render_map(
    values: Float[Tensor, "B h w"], box: Box, size: tuple[int, int], *, align_corners: bool = False
) -> Float[Tensor, "B H W"]:
    """Draw a map that covers `box` into an image of `size` (h, w), bilinearly; zero outside the box.

    Args:
        values: the map on its own grid, a cell a value.
        box: what the grid covers.
        size: (h, w) of the image.
        align_corners: whether the corner cells' centres lie on the corner pixels' centres, where the whole image is
            covered.
    """
    if box == whole(size):
        if tuple(values.shape[-2:]) == tuple(size):
            return values
        return F.interpolate(values[:, None], size=size, mode="bilinear", align_corners=align_corners)[:, 0]
    rows = (torch.arange(size[0], device=values.device, dtype=values.dtype) + 0.5 - box.top) / box.height
    columns = (torch.arange(size[1], device=values.device, dtype=values.dtype) + 0.5 - box.left) / box.width
    points = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1], dim=-1) * 2 - 1
    grid = points.expand(len(values), -1, -1, -1)
    drawn = F.grid_sample(values[:, None], grid, mode="bilinear", padding_mode="border", align_corners=False)[:, 0]
    inside = ((rows >= 0) & (rows <= 1))[:, None] & ((columns >= 0) & (columns <= 1))[None]
    return drawn * inside
