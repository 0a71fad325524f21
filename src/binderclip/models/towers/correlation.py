"""Affinity of features: one function for patches, words, heads and references."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError


def correlation(
    a: Float[Tensor, "*#B N C"],
    b: Float[Tensor, "*#B M C"] | None = None,
    *,
    centre: bool = False,
    unit: bool = True,
    chunk: int | None = None,
) -> Float[Tensor, "*B N M"]:
    """Inner products of every row of `a` with every row of `b`, in float32 or better.

    Args:
        a: (..., N, C) features. A map (B, C, h, w) is first flattened by the caller: `map.flatten(2).mT`.
        b: (..., M, C); None = a with itself. Leading dimensions broadcast.
        centre: subtract from each side its own mean over rows first (with `unit`: Pearson-like correlation that ignores
            what all patches share).
        unit: divide rows by their length: cosines in [-1, 1]. Zero rows stay zero.
        chunk: rows of `a` promoted and multiplied at a time, to bound the scratch memory of half-precision features;
            None = all. The result is the same.

    Raises:
        UsageError: widths differ, fewer than two dimensions, or chunk < 1.
    """
    other = a if b is None else b
    if a.dim() < 2 or other.dim() < 2 or a.shape[-1] != other.shape[-1]:
        raise UsageError(
            f"correlation needs (..., N, C) and (..., M, C), got {tuple(a.shape)} and {tuple(other.shape)}"
        )
    if chunk is not None and chunk < 1:
        raise UsageError(f"chunk must be at least 1 row, got {chunk}")
    exact = torch.promote_types(torch.promote_types(a.dtype, other.dtype), torch.float32)
    mean = a.mean(-2, keepdim=True, dtype=exact) if centre else None
    right = _prepare(other, other.mean(-2, keepdim=True, dtype=exact) if centre else None, unit, exact)
    right = right.transpose(-2, -1)
    if chunk is None or chunk >= a.shape[-2]:
        return _prepare(a, mean, unit, exact) @ right
    return torch.cat([_prepare(rows, mean, unit, exact) @ right for rows in a.split(chunk, dim=-2)], -2)


def _prepare(x: Tensor, mean: Tensor | None, unit: bool, exact: torch.dtype) -> Tensor:
    x = x.to(exact)
    x = x if mean is None else x - mean
    return F.normalize(x, dim=-1) if unit else x
