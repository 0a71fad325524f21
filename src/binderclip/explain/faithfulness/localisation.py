"""Does a map point at the object? Scores of maps against exact masks."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.explain.engine.attribution import blank_maps, peaks


def pointing_game(maps: Float[Tensor, "B H W"], masks: Bool[Tensor, "B H W"]) -> Bool[Tensor, "B"]:
    """Whether the largest value of each map lies inside its mask; guessing scores the mask's share of the image.

    A blank map (`blank_maps`) points nowhere, which is a miss.

    Raises:
        UsageError: shapes that differ.
    """
    _check(maps, masks)
    inside = [bool(mask[y, x]) for mask, (x, y) in zip(masks, peaks(maps), strict=True)]
    return masks.new_tensor(inside) & ~blank_maps(maps).to(masks.device)


def energy_inside(maps: Float[Tensor, "B H W"], masks: Bool[Tensor, "B H W"]) -> Float[Tensor, "B"]:
    """Share of a map's positive part that lies inside its mask; 0 for a map without any.

    Raises:
        UsageError: shapes that differ.
    """
    _check(maps, masks)
    positive = maps.clamp(min=0)
    total = positive.sum(dim=(1, 2))
    return (positive * masks).sum(dim=(1, 2)) / total.clamp(min=1e-12)


def _check(maps: Tensor, masks: Tensor) -> None:
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise UsageError(f"maps {tuple(maps.shape)} and masks {tuple(masks.shape)} must have one shape (B, H, W)")
