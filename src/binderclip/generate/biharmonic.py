"""The smoothest continuation of a picture into what is masked of it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["biharmonic_fill"]

_GREY = 0.5
"""Of a picture that is masked everywhere, so that nothing is known of it."""


def biharmonic_fill(images: Float[Tensor, "B C H W"], mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B C H W"]:
    """Fill what is masked so that the sum of the squared Laplacian is the least: the biharmonic equation.

    Pixels outside of the mask stay, and nothing of those inside is looked at. Across the picture's border nothing
    differs. A picture that is masked everywhere becomes grey (0.5). Solved exactly, one picture after the other, so
    that a large picture is better filled window by window. Not differentiable.

    Args:
        images: finite numbers of any range.
        mask: above 0 where to fill.

    Raises:
        UsageError: a mask that does not match, or a number that is not finite, in the mask or outside of it.

    Paper: On surface completion and image inpainting by biharmonic functions (Damelin and Hoang, 2018).

    Examples:
        >>> import torch
        >>> slope = torch.linspace(0, 1, 16).expand(1, 1, 16, 16)
        >>> mask = torch.zeros(1, 1, 16, 16)
        >>> mask[..., 6:9] = 1
        >>> bool((biharmonic_fill(slope * (1 - mask), mask) - slope).abs().max() < 1e-5)
        True
    """
    if images.ndim != 4 or mask.shape != (len(images), 1, *images.shape[2:]):
        raise UsageError(f"{tuple(images.shape)} and {tuple(mask.shape)} must be (B, C, H, W) and (B, 1, H, W)")
    check_known(images, mask)
    result = images.detach().clone()
    for image, hole in zip(result, (mask[:, 0] > 0).cpu().numpy(), strict=True):
        if hole.all():
            image.fill_(_GREY)
        elif hole.any():
            values = _solved(image.cpu().double().numpy(), hole)  # (C, N)
            image[:, torch.from_numpy(hole).to(image.device)] = torch.from_numpy(values).to(image)
    return result


def check_known(images: Float[Tensor, "B C H W"], mask: Float[Tensor, "B 1 H W"]) -> None:
    """Refuse NaN and infinity where something is known, from where a fill would spread them, and in the mask.

    Raises:
        UsageError: says where.
    """
    if not bool(mask.isfinite().all()):
        raise UsageError("mask has a value that is not finite")
    if not bool((images.isfinite() | (mask > 0)).all()):
        raise UsageError("images have a value that is not finite outside of the mask")


def _solved(image: Float[np.ndarray, "C H W"], hole: np.ndarray) -> Float[np.ndarray, "C N"]:
    """The values of the hole's pixels, row by row: A_hh u = -A_hk v for A = L^T L."""
    from scipy.sparse.linalg import splu

    channels, (height, width) = len(image), hole.shape
    inside = np.flatnonzero(hole.ravel())
    rows = _squared_laplacian(height, width)[inside]  # (N, H W)
    known = np.where(hole, 0, image).reshape(channels, -1)
    # Symmetric and positive: pivots from the diagonal keep the factors sparse.
    factors = splu(
        rows[:, inside].tocsc(), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True}
    )
    return factors.solve(-(rows @ known.T)).T


@lru_cache(maxsize=8)
def _squared_laplacian(height: int, width: int) -> Any:
    """L^T L of a grid whose pixels differ from their four neighbours, (H W, H W)."""
    from scipy.sparse import diags_array, eye_array, kron

    def line(count: int) -> Any:
        neighbours = np.full(count, 2.0)
        neighbours[0] -= 1
        neighbours[-1] -= 1
        return diags_array(
            [np.ones(count - 1), -neighbours, np.ones(count - 1)], offsets=[-1, 0, 1], shape=(count, count)
        )

    laplacian = kron(line(height), eye_array(width)) + kron(eye_array(height), line(width))
    return (laplacian @ laplacian).tocsr()
