"""Overlapping patches of a map, one around each pixel, and the map of their mean."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_whole

__all__ = ["fold_patches", "unfold_patches"]

EMPTY = 1e-5
"""Added to a density, as some pixels may lie in no mask."""
PLACES = 4096
"""Values of one place of all patches from which they are added place by place: measured, two to nine times as fast."""


def unfold_patches(maps: Float[Tensor, "B C H W"], size: int) -> Float[Tensor, "B C R R h w"]:
    """All patches that lie within the map, h x w = (H - R + 1) x (W - R + 1) of them; a view, nothing is copied.

    Args:
        maps: of any number of channels.
        size: side R of a patch in pixels.

    Raises:
        UsageError: no map (B, C, H, W), a size below 1, or a map that is smaller than a patch.

    Examples:
        >>> import torch
        >>> unfold_patches(torch.arange(6.0).reshape(1, 1, 2, 3), 2)[0, 0, :, :, 0, 1].tolist()
        [[1.0, 2.0], [4.0, 5.0]]
    """
    check_whole("size", size, least=1)
    if maps.ndim != 4 or min(maps.shape[-2:]) < size:
        raise UsageError(f"maps must be (B, C, H, W) of at least {size} x {size} pixels, not {tuple(maps.shape)}")
    return maps.unfold(2, size, 1).unfold(3, size, 1).permute(0, 1, 4, 5, 2, 3)


def fold_patches(
    patches: Float[Tensor, "B C R R h w"], density: Float[Tensor, "B _ H W"] | None = None
) -> Float[Tensor, "B C H W"]:
    """The mean at each pixel of all patches that cover it: the inverse of `unfold_patches`.

    Args:
        patches: as `unfold_patches` gives them, with H = h + R - 1 and W = w + R - 1.
        density: what the sum at each pixel is divided by, plus 1e-5, such as the folded sum of masks; None: the number
            of patches that cover the pixel.

    Raises:
        UsageError: no square patches, or a density of another size.
    """
    if patches.ndim != 6 or patches.shape[2] != patches.shape[3]:
        raise UsageError(f"patches must be (B, C, R, R, h, w), not {tuple(patches.shape)}")
    size, h, w = patches.shape[3:]
    target = (h + size - 1, w + size - 1)
    total = sum_patches(patches)
    if density is None:
        rows, columns = (_covered(length, size, patches) for length in target)
        return total / (rows[:, None] * columns)
    if tuple(density.shape[-2:]) != target:
        raise UsageError(f"density must be of {target[0]} x {target[1]} pixels, not {tuple(density.shape[-2:])}")
    return total / (density + EMPTY)


def sum_patches(patches: Float[Tensor, "B C R R h w"]) -> Float[Tensor, "B C H W"]:
    """The sum at each pixel of all patches that cover it: the adjoint of `unfold_patches`."""
    if patches.device.type == "cpu" and patches[:, :, 0, 0].numel() >= PLACES:
        return _PatchSum.apply(patches)
    batch, channels, size, _, h, w = patches.shape
    columns = patches.reshape(batch, channels * size * size, h * w)
    return F.fold(columns, (h + size - 1, w + size - 1), size)


class _PatchSum(torch.autograd.Function):
    """The sum of patches without a copy of them, which `F.fold` needs; its adjoint is a view of the gradient."""

    @staticmethod
    def forward(ctx: Any, patches: Tensor) -> Tensor:
        batch, channels, size, _, h, w = patches.shape
        ctx.patch_size = size
        total = patches.new_zeros(batch, channels, h + size - 1, w + size - 1)
        for y in range(size):
            for x in range(size):
                total[:, :, y : y + h, x : x + w] += patches[:, :, y, x]
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return unfold_patches(gradient, ctx.patch_size)


def _covered(length: int, size: int, like: Tensor) -> Float[Tensor, "L"]:
    """How many patches cover each place along a side."""
    at = torch.arange(length, device=like.device)
    most = min(size, length - size + 1)
    return torch.minimum(at + 1, length - at).clamp(max=most).to(like.dtype)
