"""Spherical k-means over a pool: fitted on a sample that is drawn by hash, so that shards do not matter."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Int

from binderclip.curate.engine.keys import KEY, Keys, key_order
from binderclip.curate.engine.shard import Shard
from binderclip.display import number_of
from binderclip.errors import UsageError

ROWS = 4096
"""Rows of which the distances to all centroids are held at once."""


def nearest_centroids(
    x: Float[np.ndarray, "n d"], centroids: Float[np.ndarray, "k d"]
) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
    """The centroid with the largest cosine for each row, and that cosine; -1 and NaN for rows without a direction.

    Args:
        x: rows of any length.
        centroids: unit rows.
    """
    labels, best = np.full(len(x), -1, np.int64), np.full(len(x), np.nan)
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS].astype(np.float64)
        length = np.linalg.norm(part, axis=1)
        there = np.isfinite(length) & (length > 0)
        cosines = part[there] @ centroids.T / length[there, None]  # (rows, k)
        rows = start + np.flatnonzero(there)
        labels[rows] = cosines.argmax(1)
        best[rows] = cosines.max(1)
    return labels, best


def spherical_kmeans(
    x: Float[np.ndarray, "n d"], k: int, *, seed: int = 0, iterations: int = 100
) -> Float[np.ndarray, "k d"]:
    """Centroids of unit length that make the sum of cosines of rows with their nearest centroid large.

    Lloyd's steps from scikit-learn's k-means++ start: rows go to the centroid of the largest cosine, centroids become
    the unit mean of their rows. A centroid without rows takes the row that fits its own worst. It ends when nothing
    changes.

    Args:
        x: rows of any length but zero.
        k: number of clusters, at most n.
        seed: of the start.
        iterations: most steps.

    Raises:
        UsageError: fewer rows than clusters, or k below 1.
    """
    from scipy.sparse import csr_matrix
    from sklearn.cluster import kmeans_plusplus

    if not 1 <= k <= len(x):
        raise UsageError(f"for {number_of(k, 'cluster')} at least as many samples are needed; there are {len(x)}")
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    centroids, _ = kmeans_plusplus(x, k, random_state=seed % 2**32)
    labels = np.full(len(x), -1)
    for _ in range(iterations):
        new, cosines = nearest_centroids(x, centroids)
        if len(empty := np.setdiff1d(np.arange(k), new)):
            worst = np.lexsort((np.arange(len(x)), cosines)).tolist()
            for number in empty:
                row = next(row for row in worst if (new == new[row]).sum() > 1)
                new[row] = number
        if np.array_equal(new, labels):
            break
        labels = new
        members = csr_matrix((np.ones(len(x)), (labels, np.arange(len(x)))), (k, len(x)))
        sums = members @ x  # row after row, as a loop would add them
        length = np.linalg.norm(sums, axis=1, keepdims=True)
        centroids = np.where(length > 1e-12, sums / np.maximum(length, 1e-12), centroids)
    return centroids


class CentroidStatistic:
    """Fits centroids to the rows whose keys have the smallest hashes.

    Args:
        rows: shard -> (n, d) embeddings; rows with NaN are left out.
        draw: keys -> numbers in [0, 1).
        k: number of clusters.
        sample: most rows that are held.
        seed, iterations: of `spherical_kmeans`.
    """

    holds_rows = True

    def __init__(
        self,
        rows: Callable[[Shard], Float[np.ndarray, "n d"]],
        draw: Callable[[Keys], Float[np.ndarray, "n"]],
        k: int,
        *,
        sample: int,
        seed: int = 0,
        iterations: int = 100,
    ) -> None:
        self.rows, self.draw, self.k = rows, draw, k
        self.sample, self.seed, self.iterations = sample, seed, iterations
        self._draws, self._keys = np.empty(0), np.empty(0, KEY)
        self._rows: Float[np.ndarray, "m d"] | None = None

    def update(self, shard: Shard) -> None:
        """See `PoolStatistic`."""
        rows = self.rows(shard)
        there = np.isfinite(rows).all(1) & (rows != 0).any(1)
        self._take(self.draw(shard.keys)[there], shard.keys[there], rows[there])

    def merge(self, other: CentroidStatistic) -> None:
        """See `PoolStatistic`."""
        if other._rows is not None:
            self._take(other._draws, other._keys, other._rows)

    def _take(self, draws: np.ndarray, keys: Keys, rows: np.ndarray) -> None:
        draws, keys = np.concatenate([self._draws, draws]), np.concatenate([self._keys, keys])
        rows = rows if self._rows is None else np.concatenate([self._rows, rows])
        order = key_order(keys, draws)[: self.sample]
        self._draws, self._keys, self._rows = draws[order], keys[order], rows[order]

    def result(self) -> Float[np.ndarray, "k d"]:
        """See `PoolStatistic`: unit centroids."""
        rows = np.empty((0, 1)) if self._rows is None else self._rows.astype(np.float64)
        return spherical_kmeans(rows, self.k, seed=self.seed, iterations=self.iterations)
