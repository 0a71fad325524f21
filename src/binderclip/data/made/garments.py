"""Striped shirts and how they lie on a body: tucked in, behind an arm, moved by a flow that is known exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["GARMENT_LAYOUT", "WornGarments", "worn_garments"]

GARMENT_LAYOUT = ("background", "garment", "arm", "trousers")
"""Classes of the layout."""


@dataclass(frozen=True)
class WornGarments:
    """Garments, bodies, and the garments on the bodies.

    Attributes:
        cloth: the garment laid flat, 0 outside of it.
        cloth_mask: where it is.
        body: the silhouette of body and untucked garment, the arm in front of it, the trousers.
        worn: the garment on the body as it is seen, 0 elsewhere.
        worn_mask: where it is seen.
        layout: classes of `GARMENT_LAYOUT`.
        excluded: where it would be seen, were it not tucked into the trousers.
        flow: pixel p of the worn garment comes from p + flow(p) of the flat one, (rows, columns) in pixels.
    """

    cloth: Float[Tensor, "B 3 H W"]
    cloth_mask: Float[Tensor, "B 1 H W"]
    body: Float[Tensor, "B 3 H W"]
    worn: Float[Tensor, "B 3 H W"]
    worn_mask: Float[Tensor, "B 1 H W"]
    layout: Int[Tensor, "B H W"]
    excluded: Float[Tensor, "B 1 H W"]
    flow: Float[Tensor, "B 2 H W"]


def worn_garments(
    count: int, *, size: tuple[int, int] = (32, 24), bend: float = 1.0, generator: torch.Generator | None = None
) -> WornGarments:
    """Shirts with stripes of any direction, colour and width, worn by bodies of any size and place.

    The flow scales each axis by 0.85 to 1.15, shifts by up to a sixteenth of the height, and bends smoothly. The waist
    hides what is below it, and an arm crosses the shirt: the flow knows neither.

    Args:
        count: how many, at least 1.
        size: (H, W), at least 16.
        bend: largest displacement of the bend, in pixels, in [0, 100].
        generator: of all draws.

    Raises:
        UsageError: a number out of range.

    Examples:
        >>> shirts = worn_garments(2)
        >>> shirts.worn.shape
        torch.Size([2, 3, 32, 24])
    """
    check_whole("count", count, least=1)
    check_number("bend", bend, least=0, most=100)
    if min(size) < 16:
        raise UsageError(f"size must be at least 16 x 16, got {size[0]} x {size[1]}")
    height, width = size

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(count, *(shape or (1, 1)), generator=generator) * (high - low) + low

    y = (torch.arange(height) + 0.5)[:, None] / height  # [H, 1]
    x = (torch.arange(width) + 0.5) / width - 0.5  # [W]
    flat = ((y > 0.1) & (y < 0.9) & (x.abs() < 0.27)) | ((y > 0.1) & (y < 0.32) & (x.abs() < 0.46))
    angle, period = uniform(0, math.pi), uniform(4, 8) / height
    wave = (2 * math.pi * (y * angle.cos() + x * angle.sin()) / period).sin()[:, None] / 2 + 0.5
    colors = uniform(0.3, 1.0, 2, 3, 1, 1)
    cloth = (wave * colors[:, 0] + (1 - wave) * colors[:, 1]) * flat
    cloth_mask = flat.expand(count, 1, height, width).float()
    # The flow: scales and shifts about the middle, and half a wave across and down.
    down = (uniform(0.85, 1.15) - 1) * (y - 0.5) * height + uniform(-1, 1) * height / 16
    across = (uniform(0.85, 1.15) - 1) * x * width + uniform(-1, 1) * height / 16
    down = down + bend * uniform(-1, 1) * torch.cos(math.pi * x)
    across = across + bend * uniform(-1, 1) * torch.sin(math.pi * y)
    flow = torch.stack([torch.broadcast_to(part, (count, height, width)) for part in (down, across)], 1)
    moved = _moved(torch.cat([cloth, cloth_mask], 1), flow)
    whole = moved[:, 3:] > 0.5
    waist, middle = uniform(0.6, 0.75), uniform(-0.05, 0.05)
    trousers = ((y > waist) & ((x - middle).abs() < 0.32))[:, None]
    slope, start = uniform(-0.6, 0.6), uniform(0.25, 0.5)
    arm = ((y - start - slope * x).abs() < 0.06)[:, None] & (x > uniform(-0.3, 0.1))[:, None] & ~trousers
    seen = whole & ~trousers & ~arm
    layout = torch.where(seen, 1, torch.where(arm, 2, torch.where(trousers, 3, 0)))[:, 0]
    return WornGarments(
        cloth=cloth,
        cloth_mask=cloth_mask,
        body=torch.cat([whole | trousers | arm, arm, trousers], 1).float(),
        worn=moved[:, :3] * seen,
        worn_mask=seen.float(),
        layout=layout,
        excluded=(trousers & whole).float(),
        flow=flow,
    )


def _moved(images: Tensor, flow: Tensor) -> Tensor:
    """Pixel p becomes the bilinear sample at p + flow(p), 0 outside."""
    height, width = images.shape[-2:]
    rows = torch.arange(height)[:, None] + flow[:, 0]
    columns = torch.arange(width) + flow[:, 1]
    grid = torch.stack([2 * columns / (width - 1) - 1, 2 * rows / (height - 1) - 1], -1)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=True)
