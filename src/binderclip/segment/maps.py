"""What every part of the room may do with a map of scores."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["unit_range"]


def unit_range(maps: Float[Tensor, "*B h w"]) -> Float[Tensor, "*B h w"]:
    """Each map from 0 to 1; zeros where it is constant."""
    low, high = maps.amin((-2, -1), keepdim=True), maps.amax((-2, -1), keepdim=True)
    span = high - low
    return torch.where(span > 1e-12, (maps - low) / span.clamp(min=1e-12), 0.0)
