"""Losses of a flow by itself: how it varies from pixel to pixel, and which layer comes before which."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["layer_order", "total_variation"]


def total_variation(flow: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Mean absolute difference of neighbours down, plus that of neighbours across; of a flow, or of a picture.

    Args:
        flow: of at least two rows and columns. A constant one costs 0, a ramp of slope a across costs |a|.

    Raises:
        UsageError: no such flow.

    Paper: Towards Squeezing-Averse Virtual Try-On via Sequential Deformation (arXiv 2312.15861).

    Examples:
        >>> import torch
        >>> float(total_variation(0.5 * torch.arange(4.0).expand(1, 2, 3, 4)))
        0.5
    """
    if flow.ndim != 4 or not flow.numel() or min(flow.shape[-2:]) < 2:
        raise UsageError(f"a flow must be (B, C, H, W) of at least 2 x 2 pixels, got {tuple(flow.shape)}")
    return flow.diff(dim=-2).abs().mean() + flow.diff(dim=-1).abs().mean()


def layer_order(depth: Float[Tensor, "B 1 H W"], region: Float[Tensor, "B 1 H W"]) -> Float[Tensor, ""]:
    """Draw a displacement in depth to 0 within a region, where the layer is seen, and to 2 outside, where it is not.

    The layers lie at -1 and 1: `mean(region |dz|) + mean((1 - region) |dz - 2|)`, equation 12.

    Args:
        depth: the displacements dz.
        region: where the first layer is seen, in [0, 1].

    Raises:
        UsageError: maps of different shapes.

    Paper: Towards Squeezing-Averse Virtual Try-On via Sequential Deformation (arXiv 2312.15861).

    Examples:
        >>> import torch
        >>> region = torch.tensor([[[[0.0, 1.0]]]])
        >>> float(layer_order(2 * (1 - region), region))
        0.0
    """
    if depth.shape != region.shape or not depth.numel():
        raise UsageError(f"depth and region must have one shape: {tuple(depth.shape)} and {tuple(region.shape)}")
    return (region * depth.abs()).mean() + ((1 - region) * (depth - 2).abs()).mean()
