"""IoU of the bands inside the outlines of two masks."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["boundary_iou", "inner_band"]


def inner_band(masks: Bool[Tensor, "*B H W"], width: int) -> Bool[Tensor, "*B H W"]:
    """Pixels of masks within `width` steps (8 neighbours) of what is outside; beyond the picture is outside."""
    flat = masks.reshape(-1, 1, *masks.shape[-2:])
    outside = pad((~flat).float(), (width,) * 4, value=1.0)
    # A square is a row after a column.
    near = max_pool2d(outside, (2 * width + 1, 1), stride=1)
    near = max_pool2d(near, (1, 2 * width + 1), stride=1)
    return (flat & (near > 0)).view(masks.shape)


def boundary_iou(
    predicted: Bool[Tensor, "*B H W"], truth: Bool[Tensor, "*B H W"], *, dilation_ratio: float = 0.02
) -> Float[Tensor, "*B"]:
    """IoU of the inner bands of masks, which large masks cannot win by their inside.

    Args:
        predicted, truth: masks of the same pictures.
        dilation_ratio: width of the bands as a share of the diagonal, at least one pixel.

    Returns:
        One value a mask; 1 where both are empty.

    Paper: Boundary IoU (arXiv 2103.16562).

    Raises:
        UsageError: masks of different shapes, or a ratio that is not above 0.
    """
    if predicted.shape != truth.shape:
        raise UsageError(f"predicted is {tuple(predicted.shape)}, truth is {tuple(truth.shape)}")
    check_number("dilation_ratio", dilation_ratio, above=0)
    width = max(1, round(dilation_ratio * math.hypot(*predicted.shape[-2:])))
    ours, theirs = inner_band(predicted.bool(), width), inner_band(truth.bool(), width)
    intersection, either = (ours & theirs).sum((-2, -1)), (ours | theirs).sum((-2, -1))
    return torch.where(either > 0, intersection / either.clamp(min=1), 1.0)
