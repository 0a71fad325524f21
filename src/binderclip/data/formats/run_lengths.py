"""COCO's uncompressed run lengths of masks, and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool

__all__ = ["from_run_lengths", "run_lengths"]


def run_lengths(mask: Bool[np.ndarray, "H W"]) -> list[int]:
    """COCO's uncompressed run lengths: column by column, zeros first."""
    flat = np.asarray(mask, dtype=np.int8).ravel(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff(np.concatenate([[0], changes, [len(flat)]])).tolist()
    return runs if not flat.size or flat[0] == 0 else [0, *runs]


def from_run_lengths(counts: Sequence[int], size: tuple[int, int]) -> Bool[np.ndarray, "H W"]:
    """The mask of COCO's uncompressed run lengths.

    Args:
        counts: column by column, zeros first.
        size: (height, width).

    Raises:
        ValueError: lengths that are negative or do not add up to the size.
    """
    runs = np.asarray(counts, dtype=np.int64)
    height, width = (int(v) for v in size)
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != height * width:
        raise ValueError(f"run lengths of {int(runs.sum())} pixels for a mask of {height} x {width}")
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape((height, width), order="F")
