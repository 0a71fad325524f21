"""Sums over groups under the bootstrap and under permutations, for many draws at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import gammaln

ELEMENTS = 2_000_000
"""Numbers of one block of draws that are held at once."""


def group_sums(columns: Float[np.ndarray, "N K"], index: Int[np.ndarray, "N"], groups: int) -> Float[np.ndarray, "G K"]:
    """Sum of the columns over the rows of each group; rows of group -1 are in none."""
    return np.stack([columns[index == group].sum(axis=0) for group in range(groups)])


def bootstrap_sums(
    columns: Float[np.ndarray, "N K"], index: Int[np.ndarray, "N"], groups: int, draws: int, seed: int = 0
) -> Float[np.ndarray, "D G K"]:
    """The sums of `group_sums` for resamples with replacement within each group, so that its size stays.

    Args:
        columns: what each row brings.
        index: its group, -1 for none.
        groups: G.
        draws: D.
        seed: of the draws.
    """
    sums = np.zeros((draws, groups, columns.shape[1]))
    for group in range(groups):
        rows, rng = np.flatnonzero(index == group), np.random.default_rng([seed, group])
        if not len(rows):
            continue
        step = max(1, ELEMENTS // len(rows))
        for start in range(0, draws, step):
            block = min(step, draws - start)
            drawn = rng.integers(0, len(rows), (block, len(rows))) + np.arange(block)[:, None] * len(rows)
            times = np.bincount(drawn.ravel(), minlength=block * len(rows)).reshape(block, len(rows))
            sums[start : start + block, group] = times.astype(np.float64) @ columns[rows]  # (block, K)
    return sums


def permuted_sums(
    columns: Float[np.ndarray, "N K"],
    index: Int[np.ndarray, "N"],
    groups: int,
    draws: int,
    seed: int = 0,
    *,
    within: Int[np.ndarray, "N"] | None = None,
) -> Float[np.ndarray, "D G K"]:
    """The sums of `group_sums` where the rows' groups are shuffled.

    Args:
        columns: what each row brings.
        index: its group; rows of group -1 take no part.
        groups: G.
        draws: D.
        seed: of the draws.
        within: shuffled only among the rows of one value, such as the true class; None: among all.
    """
    known = np.flatnonzero(index >= 0)
    strata = np.zeros(len(known), np.int64) if within is None else within[known]
    known = known[np.argsort(strata, kind="stable")]
    held, own = columns[known], index[known].astype(np.int16)
    parts = np.split(own, np.flatnonzero(np.diff(np.sort(strata))) + 1)
    rng, step = np.random.default_rng([seed, groups]), max(1, ELEMENTS // max(1, len(own)))
    sums = np.zeros((draws, groups, columns.shape[1]))
    for start in range(0, draws, step):
        block = min(step, draws - start)
        shuffled = [rng.permuted(np.tile(part, (block, 1)), axis=1) for part in parts]
        where = np.concatenate(shuffled, axis=1)  # (block, N)
        for group in range(groups):
            sums[start : start + block, group] = (where == group).astype(np.float64) @ held
    return sums


@dataclass(frozen=True)
class ShuffleRoom:
    """How much a shuffle of groups can change at all.

    Attributes:
        arrangements: number of ways to put the groups on the rows within their strata, infinite where it is huge.
        movable: share of the rows whose stratum has rows of two groups or more; the others stay as they are.
    """

    arrangements: float
    movable: float


def shuffle_room(
    columns: Float[np.ndarray, "N K"],
    index: Int[np.ndarray, "N"],
    groups: int,
    *,
    within: Int[np.ndarray, "N"] | None = None,
) -> ShuffleRoom:
    """What `permuted_sums` can change of the rows that bring something.

    Args:
        columns, index, groups, within: as there; strata whose rows bring nothing but zeros are left out.
    """
    strata = np.zeros(len(index), np.int64) if within is None else within
    brings = (index >= 0) & (columns != 0).any(axis=1)
    taken = (index >= 0) & np.isin(strata, np.unique(strata[brings]))
    if not taken.any():
        return ShuffleRoom(1.0, 0.0)
    _, own = np.unique(strata[taken], return_inverse=True)
    counts = np.zeros((own.max() + 1, groups))
    np.add.at(counts, (own, index[taken]), 1)
    # a product of multinomial coefficients
    ways = float((gammaln(counts.sum(axis=1) + 1) - gammaln(counts + 1).sum(axis=1)).sum())
    mixed = (counts > 0).sum(axis=1) > 1
    arrangements = round(np.exp(ways)) if ways < 30 else np.inf
    return ShuffleRoom(float(arrangements), float(counts[mixed].sum() / counts.sum()))
