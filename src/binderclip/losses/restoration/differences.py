"""Losses of the differences of neighbouring pixels: of two pictures, or of two layers of one picture."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_whole

__all__ = ["exclusion_loss", "gradient_l1"]

_EPSILON = 1e-6
"""Of the released code: under the root, and in the quotient of the slopes."""


def gradient_l1(images: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Mean absolute error of the differences of neighbours down, plus that of the differences across.

    Args:
        images, target: pictures of at least two rows and columns; brightness alone costs nothing.

    Raises:
        UsageError: pictures of different shapes, or of one row or column.

    Paper: Towards Flexible Interactive Reflection Removal with Human Guidance (arXiv 2406.01555).

    Examples:
        >>> import torch
        >>> picture = torch.rand(1, 3, 8, 8)
        >>> round(float(gradient_l1(picture + 0.25, picture)), 6)
        0.0
    """
    _check_alike(images, target)
    return sum((F.l1_loss(images.diff(dim=axis), target.diff(dim=axis)) for axis in (-2, -1)), images.new_zeros(()))


def exclusion_loss(
    transmission: Float[Tensor, "B C H W"], reflection: Float[Tensor, "B C H W"], *, levels: int = 3
) -> Float[Tensor, ""]:
    """How far two layers have edges in the same places: a loss that leaves every edge to one of them.

    At each level, for differences g of neighbours down and across: `u = tanh(g_T / 2)`, `v = tanh(a g_R / 2)` with
    `a = 2 mean|g_T| / (mean|g_R| + 1e-6)`, which brings both to one scale, and the term `(mean(u^2 v^2) + 1e-6)^(1/4)`.
    Terms are averaged over levels, each at half of the size of the one before, and over both directions. Where either
    layer is constant the loss is `1e-6^(1/4) = 0.0316`, its least value.

    Args:
        transmission, reflection: the layers T and R. Because of a, the order counts.
        levels: sizes at which they are compared, at least 1.

    Raises:
        UsageError: layers of different shapes, or smaller than 2 pixels at the last level.

    Paper: Towards Flexible Interactive Reflection Removal with Human Guidance (arXiv 2406.01555); after Single Image
    Reflection Separation with Perceptual Losses (arXiv 1806.05376).

    Examples:
        >>> import torch
        >>> round(float(exclusion_loss(torch.rand(1, 3, 16, 16), torch.ones(1, 3, 16, 16))), 4)
        0.0316
    """
    _check_alike(transmission, reflection)
    check_whole("levels", levels, least=1)
    if min(transmission.shape[-2:]) < 2**levels:
        raise UsageError(f"{levels} levels need pictures of at least {2**levels} pixels a side")
    terms = []
    for level in range(levels):
        if level:
            transmission, reflection = (
                F.interpolate(x, scale_factor=0.5, mode="bilinear", align_corners=False)
                for x in (transmission, reflection)
            )
        for axis in (-2, -1):
            slope_t, slope_r = transmission.diff(dim=axis), reflection.diff(dim=axis)
            scale = 2 * slope_t.abs().mean() / (slope_r.abs().mean() + _EPSILON)
            # 2 sigmoid(g) - 1 = tanh(g / 2)
            product = (slope_t / 2).tanh().square() * (scale * slope_r / 2).tanh().square()
            terms.append((product.mean() + _EPSILON) ** 0.25)
    return torch.stack(terms).mean()


def _check_alike(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape or one.ndim != 4 or min(one.shape) < 1 or min(one.shape[-2:]) < 2:
        raise UsageError(
            f"pictures must be (B, C, H, W) of one shape, of at least 2 x 2 pixels: {tuple(one.shape)} and "
            f"{tuple(other.shape)}"
        )
