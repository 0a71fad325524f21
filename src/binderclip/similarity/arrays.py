"""Features and class indices as users hold them, tensors, NumPy arrays or lists, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["Rows", "as_features", "as_indices", "as_ks"]

Rows: TypeAlias = Tensor | np.ndarray | Sequence[Sequence[float]]
"""Rows of features, (N, E)."""


def as_features(name: str, values: Any) -> Float[Tensor, "N E"]:
    """Rows of features as a tensor; a tensor stays the one it is.

    Args:
        name: of the argument, for messages.
        values: (N, E) numbers.

    Raises:
        UsageError: no matrix of floating-point numbers.
    """
    try:
        rows = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"{name} must be rows of numbers (N, E), not {type(values).__name__}") from error
    if rows.ndim != 2 or not rows.is_floating_point():
        raise UsageError(f"{name} must be (N, E) floating-point features, not {rows.dtype} {tuple(rows.shape)}")
    return rows


def as_indices(name: str, values: Any, count: int | None = None) -> Int[Tensor, "N"]:
    """Indices of any whole-number type as int64.

    Args:
        name: of the argument, for messages.
        values: (N,) whole numbers.
        count: N, where it is known.

    Raises:
        UsageError: another shape or type, such as one-hot rows, floats or a single number.
    """
    size = "N" if count is None else count
    if isinstance(values, Tensor):  # not through NumPy, which would wait for the device
        whole = not (values.is_floating_point() or values.is_complex() or values.dtype == torch.bool)
        shape, kind = tuple(values.shape), str(values.dtype).removeprefix("torch.")
    else:
        try:
            values = np.asarray(values)
        except (TypeError, ValueError, RuntimeError) as error:
            raise UsageError(f"{name} must be whole numbers, ({size},); got {type(values).__name__}") from error
        whole, shape, kind = values.dtype.kind in "iu", values.shape, str(values.dtype)
    if not whole or len(shape) != 1 or (count is not None and shape[0] != count):
        raise UsageError(f"{name} must be whole numbers, ({size},); got {kind} {shape}")
    # NumPy knows whole numbers of more types than torch computes with.
    return values.long() if isinstance(values, Tensor) else torch.from_numpy(values.astype(np.int64))


def as_ks(ks: int | Sequence[int]) -> tuple[int, ...]:
    """The k of R@k or of top-k: one or several whole numbers.

    Raises:
        UsageError: none, or one below 1.
    """
    several = (ks,) if isinstance(ks, int) else tuple(ks)
    if not several or any(isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1 for k in several):
        raise UsageError(f"ks must be whole numbers from 1, got {several}")
    return tuple(int(k) for k in several)
