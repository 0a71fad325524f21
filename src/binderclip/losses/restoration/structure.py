"""One minus the structural similarity of two pictures."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["ssim_loss"]


def ssim_loss(
    images: Float[Tensor, "B C H W"], target: Float[Tensor, "B C H W"], *, window: int = 11, sigma: float = 1.5
) -> Float[Tensor, ""]:
    """`1 - SSIM` of pictures in [0, 1], mean over pixels and channels, with Gaussian windows.

    Pixels outside the picture count as black in both, as the released code has it; further inside than half a window
    the similarity is that of scikit-image with Gaussian weights.

    Args:
        images, target: pictures of one shape.
        window: side of the window, odd.
        sigma: its standard deviation in pixels.

    Raises:
        UsageError: pictures of different shapes, an even window or no positive sigma.

    Paper: Towards Flexible Interactive Reflection Removal with Human Guidance (arXiv 2406.01555).

    Examples:
        >>> import torch
        >>> picture = torch.rand(1, 3, 16, 16)
        >>> abs(float(ssim_loss(picture, picture))) < 1e-6
        True
    """
    if images.shape != target.shape or images.ndim != 4 or not images.numel():
        raise UsageError(f"pictures must be (B, C, H, W) of one shape: {tuple(images.shape)} and {tuple(target.shape)}")
    check_whole("window", window, least=1)
    check_number("sigma", sigma, above=0)
    if window % 2 == 0:
        raise UsageError(f"window must be odd, got {window}")
    return 1 - similarity_map(images, target, window, sigma).mean()


def similarity_map(images: Tensor, target: Tensor, window: int, sigma: float) -> Tensor:
    """SSIM of every pixel, [B, C, H, W]."""
    taps = torch.arange(window, device=images.device, dtype=images.dtype) - (window - 1) / 2
    row = torch.exp(-0.5 * (taps / sigma) ** 2)
    row = row / row.sum()
    first, second = 0.01**2, 0.03**2
    stacked = torch.cat([images, target, images * images, target * target, images * target])  # [5B, C, H, W]
    flat = stacked.flatten(0, 1)[:, None]
    half = window // 2
    blurred = F.conv2d(
        F.conv2d(flat, row.view(1, 1, -1, 1), padding=(half, 0)), row.view(1, 1, 1, -1), padding=(0, half)
    )
    mean_x, mean_y, square_x, square_y, product = blurred.reshape(stacked.shape).chunk(5)
    variances = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    top = (2 * mean_x * mean_y + first) * (2 * covariance + second)
    return top / ((mean_x**2 + mean_y**2 + first) * (variances + second))
