"""Local paths as straight strips of the picture, and strips put back where they were cut."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Real
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["frames", "straightened", "unstraightened"]

SMOOTH = 5
"""Pixels of a path that are averaged before its direction is taken: steps on a grid have but eight."""


def frames(paths: Real[Tensor, "P n 2"]) -> tuple[Float[Tensor, "P n 2"], Float[Tensor, "P n 2"]]:
    """Points of smoothed paths, one a pixel of length, and the unit normals there (to the right of the path).

    Args:
        paths: (row, column) of points about a pixel apart.

    Raises:
        UsageError: fewer than three pixels.
    """
    if paths.ndim != 3 or paths.shape[1] < 3 or paths.shape[2] != 2:
        raise UsageError(f"paths must be (P, n, 2) with n of at least 3, not {tuple(paths.shape)}")
    points = paths.float()
    length = points.shape[1]
    # Mirrored through its ends, so that the smoothed path begins and ends where the path does.
    half = min(SMOOTH // 2, length - 1)
    before = 2 * points[:, :1] - points[:, 1 : half + 1].flip(1)
    after = 2 * points[:, -1:] - points[:, -half - 1 : -1].flip(1)
    padded = torch.cat([before, points, after], 1)  # (P, n + 2 half, 2)
    smooth = padded.unfold(1, 2 * half + 1, 1).mean(-1)  # (P, n, 2)
    # Differences between both neighbours; at the ends between the end and the one neighbour.
    ahead = torch.cat([smooth[:, 1:], smooth[:, -1:]], 1) - torch.cat([smooth[:, :1], smooth[:, :-1]], 1)
    tangent = F.normalize(ahead, dim=-1, eps=1e-9)
    return smooth, torch.stack([tangent[..., 1], -tangent[..., 0]], -1)


def straightened(image: Float[Tensor, "C H W"], paths: Real[Tensor, "P n 2"], radius: int) -> Float[Tensor, "P C n w"]:
    """The picture along each path, with the path straight up the middle; bilinear, beyond the edge its nearest pixel.

    Args:
        image: of any channels, on any device.
        paths: as `frames` takes them; there may be none.
        radius: samples to either side of the path, a pixel apart, so that w is 2 radius + 1.
    """
    centre, normal = frames(paths.to(image.device))
    if not len(paths):
        return image.new_zeros(0, image.shape[0], paths.shape[1], 2 * radius + 1)
    across = torch.arange(-radius, radius + 1, dtype=torch.float32, device=image.device)
    points = centre[:, :, None] + across[:, None] * normal[:, :, None]  # (P, n, w, 2) of (row, column)
    size = torch.tensor(image.shape[-2:], dtype=torch.float32, device=image.device)
    grid = (2 * points / (size - 1) - 1).flip(-1)
    # One picture for all strips: the strips stand one below the other in a single grid.
    count, length, width, _ = grid.shape
    strips = F.grid_sample(
        image[None].float(), grid.reshape(1, count * length, width, 2), padding_mode="border", align_corners=True
    )
    return strips[0].unflatten(1, (count, length)).transpose(0, 1)


def unstraightened(
    strips: Float[Tensor, "P n w"], paths: Real[Tensor, "P n 2"], size: tuple[int, int]
) -> Float[Tensor, "H W"]:
    """What strips say of each pixel, averaged where they overlap; 0 where none reaches.

    Args:
        strips: values along and across the paths, such as a mask, on the CPU as the paths are.
        paths: where they were cut.
        size: (H, W) of the picture.
    """
    centre, normal = frames(paths)
    radius = strips.shape[-1] // 2
    # Twice as dense as the strip, so that turns leave no holes.
    across = torch.arange(-2 * radius, 2 * radius + 1, dtype=torch.float32) / 2
    dense = F.interpolate(strips[:, None], size=(strips.shape[1], len(across)), mode="bilinear", align_corners=True)[
        :, 0
    ]
    points = (centre[:, :, None] + across[:, None] * normal[:, :, None]).round().long()  # (P, n, w', 2)
    rows, columns = points[..., 0].flatten(), points[..., 1].flatten()
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    index = (rows * size[1] + columns)[inside]
    total = torch.zeros(size[0] * size[1]).index_add(0, index, dense.flatten()[inside])
    count = torch.zeros(size[0] * size[1]).index_add(0, index, torch.ones(len(index)))
    return (total / count.clamp(min=1)).reshape(size)
