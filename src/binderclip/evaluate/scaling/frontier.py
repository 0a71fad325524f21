"""Which of many trained models nobody beats at their cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Real

from binderclip.errors import UsageError

__all__ = ["best_at_budget", "compute_frontier"]


def compute_frontier(
    cost: Real[np.ndarray, "n"] | Sequence[float], error: Real[np.ndarray, "n"] | Sequence[float]
) -> Int[np.ndarray, "k"]:
    """Numbers of the points that no other dominates, from the cheapest to the most expensive.

    A point is dominated where another costs no more and errs no more, and is better in one of both. Of equal points
    none dominates the others, so all of them stay.

    Args:
        cost: of training, say in operations.
        error: the lower the better.

    Raises:
        UsageError: no point, lengths that differ, or NaN.

    Examples:
        >>> compute_frontier([1, 2, 3, 4], [0.9, 0.5, 0.6, 0.4]).tolist()
        [0, 1, 3]

    Paper: Li et al., "Scaling (Down) CLIP: A Comprehensive Analysis of Data, Architecture, and Training Strategies",
    arXiv 2404.08197.
    """
    x, y = _points(cost, error)
    order = np.lexsort((y, x))
    kept: list[int] = []
    for row in order.tolist():
        if not kept or y[row] < y[kept[-1]] or (x[row] == x[kept[-1]] and y[row] == y[kept[-1]]):
            kept.append(row)
    return np.array(kept)


def best_at_budget(
    cost: Real[np.ndarray, "n"] | Sequence[float],
    error: Real[np.ndarray, "n"] | Sequence[float],
    budgets: Real[np.ndarray, "b"] | Sequence[float],
) -> Int[np.ndarray, "b"]:
    """Number of the point with the least error among those that each budget pays for; -1 where it pays for none.

    Args:
        cost, error: as of `compute_frontier`; of equally good points the cheapest is taken.
        budgets: in the unit of the costs.

    Raises:
        UsageError: as of `compute_frontier`.

    Examples:
        >>> best_at_budget([1, 2, 3, 4], [0.9, 0.5, 0.6, 0.4], [0.5, 3, 10]).tolist()
        [-1, 1, 3]
    """
    x, _ = _points(cost, error)
    frontier = compute_frontier(cost, error)
    # of equal points the first stands for all
    _, first = np.unique(x[frontier], return_index=True)
    rows = np.concatenate([[-1], frontier[first]])
    return rows[np.searchsorted(x[frontier[first]], np.asarray(budgets, np.float64), side="right")]


def _points(
    cost: Real[np.ndarray, "n"] | Sequence[float], error: Real[np.ndarray, "n"] | Sequence[float]
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    x, y = np.asarray(cost, np.float64), np.asarray(error, np.float64)
    if x.ndim != 1 or x.shape != y.shape or not len(x) or np.isnan(x).any() or np.isnan(y).any():
        raise UsageError(f"cost and error are numbers of the same points, one at least; got {x.shape} and {y.shape}")
    return x, y
