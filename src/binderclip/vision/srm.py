"""The 30 high-pass filters of the spatial rich model, which leave the noise of a picture."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

_SQUARE_3 = np.outer([1, -2, 1], [1, -2, 1]) * -1
_SQUARE_5 = np.array(
    [[-1, 2, -2, 2, -1], [2, -6, 8, -6, 2], [-2, 8, -12, 8, -2], [2, -6, 8, -6, 2], [-1, 2, -2, 2, -1]]
)
_FIRST, _SECOND, _THIRD = {0: -1, 1: 1}, {-1: 1, 0: -2, 1: 1}, {-1: 1, 0: -3, 1: 3, 2: -1}
"""Along a direction: offset in pixels -> coefficient."""
_DIRECTIONS = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))


def _along(taps: dict[int, int], direction: tuple[int, int]) -> np.ndarray:
    kernel = np.zeros((5, 5))
    for offset, value in taps.items():
        kernel[2 + offset * direction[0], 2 + offset * direction[1]] = value
    return kernel


def _edges(square: np.ndarray) -> list[np.ndarray]:
    """The square with one half set to zero, in four directions."""
    upper = square.astype(float).copy()
    upper[len(square) // 2 + 1 :] = 0
    return [np.rot90(upper, turn) for turn in range(4)]


@lru_cache(maxsize=1)
def srm_filters() -> Float[Tensor, "30 5 5"]:
    """The 30 filters: 8 of first order, 4 of second, 8 of third, 1 square and 4 edges of 3 x 3, and the same of 5 x 5.

    Each is divided by its largest absolute value; those of 3 x 3 stand in the middle of 5 x 5. All sum to zero, so a
    flat picture gives zero away from its border.

    The result is shared: copy it before you change it.

    Paper: Rich Models for Steganalysis of Digital Images (IEEE TIFS 2012); as in A Sanity Check for AI-generated Image
    Detection (arXiv 2406.19435).
    """
    kernels = [_along(_FIRST, direction) for direction in _DIRECTIONS]
    kernels += [_along(_SECOND, direction) for direction in _DIRECTIONS[:4]]
    kernels += [_along(_THIRD, direction) for direction in _DIRECTIONS]
    small, large = [_SQUARE_3.astype(float), *_edges(_SQUARE_3)], [_SQUARE_5.astype(float), *_edges(_SQUARE_5)]
    kernels += [np.pad(kernel, 1) for kernel in small] + large
    return torch.from_numpy(np.stack([kernel / np.abs(kernel).max() for kernel in kernels])).float()


class SRMFilter(nn.Module):
    """The noise residuals of a picture by `srm_filters`: one kernel on all channels, summed; nothing is trained.

    Call it with (B, C, H, W); the result is (B, 30, H, W), with zeros beyond the border.
    """

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernels", srm_filters().clone()[:, None], persistent=False)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 30 H W"]:
        """Residuals. The same kernel on every channel is the kernel on their sum."""
        return functional.conv2d(images.sum(1, keepdim=True), self.kernels.to(images.dtype), padding=2)
