"""Flows of pixels: pictures moved by them, one after the other, and what they do to areas."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError

__all__ = ["area_change", "compose_flows", "resize_flow", "warp"]


def warp(
    images: Float[Tensor, "B C H W"],
    flow: Float[Tensor, "B 2 H W"],
    *,
    padding: Literal["border", "reflection"] = "border",
) -> Float[Tensor, "B C H W"]:
    """Pixel p becomes the bilinear sample of the image at p + flow(p); differentiable.

    Args:
        images: any number of channels.
        flow: displacements (rows, columns) in pixels.
        padding: what lies outside: the nearest pixel, or the image mirrored.
    """
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=flow.device, dtype=flow.dtype)[:, None] + flow[:, 0]
    columns = torch.arange(width, device=flow.device, dtype=flow.dtype) + flow[:, 1]
    # With align_corners -1 and 1 are the centres of the outer pixels, so that whole displacements are exact.
    grid = torch.stack([2 * columns / max(width - 1, 1) - 1, 2 * rows / max(height - 1, 1) - 1], -1)
    return F.grid_sample(images, grid.to(images.dtype), padding_mode=padding, align_corners=True)


def compose_flows(first: Float[Tensor, "B 2 H W"], second: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B 2 H W"]:
    """The flow of two warps in a row, `warp(warp(images, first), second)`: second(p) + first(p + second(p)).

    Exact for flows that are linear between pixels; warping twice blurs twice, warping by this once.

    Args:
        first: the flow of the first warp.
        second: that of the second.
    """
    return second + warp(first, second)


def resize_flow(flow: Float[Tensor, "B 2 h w"], size: tuple[int, int]) -> Float[Tensor, "B 2 H W"]:
    """The same displacements for pictures of another size, in their pixels.

    Args:
        flow: of at least 2 x 2 pixels.
        size: (H, W).

    Raises:
        UsageError: a flow of fewer pixels.
    """
    height, width = flow.shape[-2:]
    if min(height, width) < 2:
        raise UsageError(f"a flow of {height} x {width} pixels has no scale: 2 x 2 is the least")
    scale = flow.new_tensor([(size[0] - 1) / (height - 1), (size[1] - 1) / (width - 1)])
    return F.interpolate(flow, size, mode="bilinear", align_corners=True) * scale[:, None, None]


def area_change(flow: Float[Tensor, "B 2 H W"]) -> Float[Tensor, "B h w"]:
    """|det(I + J)| between pixels: how much of the image goes into one pixel of what is warped, [B, H - 1, W - 1].

    1 is an area kept, 2 a texture squeezed to a half, 0.5 one stretched to the double.

    Args:
        flow: displacements (rows, columns) in pixels, of at least 2 x 2 pixels.

    Raises:
        UsageError: a flow of fewer pixels.

    Examples:
        >>> rows = torch.arange(4.0)[:, None].expand(4, 4)
        >>> float(area_change(torch.stack([rows, 0 * rows])[None]).mean())  # rows twice as fast
        2.0
    """
    if min(flow.shape[-2:]) < 2:
        raise UsageError(f"a flow of {flow.shape[-2]} x {flow.shape[-1]} pixels has no slope: 2 x 2 is the least")
    # Slopes at the middle of every four pixels: means of two differences.
    down = (flow.diff(dim=-2)[..., :-1] + flow.diff(dim=-2)[..., 1:]) / 2
    across = (flow.diff(dim=-1)[..., :-1, :] + flow.diff(dim=-1)[..., 1:, :]) / 2
    return ((1 + down[:, 0]) * (1 + across[:, 1]) - down[:, 1] * across[:, 0]).abs()
