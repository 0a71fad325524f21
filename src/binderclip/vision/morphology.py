"""Masks grown and shrunk by a square."""

from __future__ import annotations

from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from binderclip.numeric import check_whole

__all__ = ["dilate", "erode"]

Mask = TypeVar("Mask", Bool[Tensor, "*B H W"], Float[Tensor, "*B H W"])


def dilate(mask: Mask, size: int) -> Mask:
    """A mask grown by a square: a pixel is in it where any pixel of the square around it was.

    Args:
        mask: bool, or numbers of which the largest counts; beyond the picture is outside of the mask.
        size: side of the square in pixels; `2 * radius + 1` grows by `radius` pixels on each side. A square of even
            size has its origin at place (size // 2, size // 2), as in SciPy. 0 and 1 leave the mask as it is.

    Raises:
        UsageError: a size below 0.

    Examples:
        >>> import torch
        >>> mask = torch.zeros(5, 5, dtype=torch.bool)
        >>> mask[2, 2] = True
        >>> int(dilate(mask, 3).sum()), int(erode(dilate(mask, 3), 3).sum())
        (9, 1)
    """
    check_whole("size", size, least=0)
    return _largest(mask, size, size - 1 - size // 2, size // 2)


def erode(mask: Mask, size: int) -> Mask:
    """A mask shrunk by a square: a pixel stays where all pixels of the square around it are in the mask.

    Args:
        mask: bool, or numbers in [0, 1] of which the smallest counts; beyond the picture is outside of the mask.
        size: side of the square in pixels, as of `dilate`.

    Raises:
        UsageError: a size below 0.
    """
    check_whole("size", size, least=0)
    if mask.dtype == torch.bool:
        return ~_largest(~mask, size, size // 2, size - 1 - size // 2, beyond=1.0)
    return -_largest(-mask, size, size // 2, size - 1 - size // 2)


def _largest(mask: Tensor, size: int, before: int, behind: int, beyond: float = 0.0) -> Tensor:
    """The largest value of the square that reaches so many pixels before and behind, in both directions."""
    if size < 2:
        return mask
    flat = mask.reshape(-1, 1, *mask.shape[-2:])
    values = flat if flat.dtype.is_floating_point else flat.float()
    padded = functional.pad(values, (before, behind, before, behind), value=beyond)
    columns = functional.max_pool2d(padded, (size, 1), stride=1)  # a square is a column of rows: 2 k instead of k^2
    return functional.max_pool2d(columns, (1, size), stride=1).to(mask.dtype).reshape(mask.shape)
