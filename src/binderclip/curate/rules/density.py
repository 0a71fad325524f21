"""Density-based pruning (p103): quotas of concept clusters by their complexity, the farthest members first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.optimize import brentq
from scipy.special import softmax

from binderclip.curate.engine.ranking import RankCuts, RankingStatistic
from binderclip.curate.engine.rule import HashDraws, PoolStatistic, Statistics, checked_share, count_of_share
from binderclip.curate.engine.shard import Shard
from binderclip.curate.rules.clusters import ClusterRule
from binderclip.display import number_of
from binderclip.errors import UsageError

_UNIT = 2.0**32  # distances are summed as whole multiples of 2^-32, so that their order does not matter


def cluster_complexity(
    centroids: Float[np.ndarray, "k d"], d_intra: Float[np.ndarray, "k"], *, neighbours: int = 20
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """How complex each cluster is: how far its members spread, times how far the clusters around it are.

    Of "Effective pruning of web-scale datasets based on complexity of concept clusters" (arXiv 2401.04578).

    Args:
        centroids: (k, d) unit rows.
        d_intra: (k,) mean cosine distance of the members to their centroid; NaN for clusters without members.
        neighbours: nearest other centroids that count; all others where there are fewer.

    Returns:
        C = d_inter * d_intra, NaN replaced by the mean of the rest, and d_inter, the mean cosine distance to the
        nearest other centroids (0 for a single cluster).

    Raises:
        UsageError: shapes that do not fit, or no neighbour.
    """
    k = len(centroids)
    if d_intra.shape != (k,) or neighbours < 1:
        raise UsageError(f"{k} centroids need {k} d_intra and neighbours >= 1, got {d_intra.shape} and {neighbours}")
    count = min(neighbours, k - 1)
    distances = 1 - centroids @ centroids.T
    np.fill_diagonal(distances, np.inf)  # a centroid is no neighbour of its own
    d_inter = np.sort(distances, axis=1)[:, :count].mean(1) if count else np.zeros(k)
    complexity = d_inter * d_intra
    known = np.isfinite(complexity)
    return np.where(known, complexity, complexity[known].mean() if known.any() else 0.0), d_inter


def quota_qp(
    probs: Float[np.ndarray, "k"],
    sizes: Int[np.ndarray, "k"],
    total: int,
    *,
    balance: float = 0.0,
    repair: bool = True,
) -> Int[np.ndarray, "k"]:
    """How many samples each cluster keeps: the point of the allowed quotas that is nearest to `probs * total`.

    min_x 1/2 ||x||^2 - total probs^T x  subject to  sum x = total,  l_j <= x_j <= n_j. The released code gives this
    quadratic program to OSQP. It is a projection: x_j = clip(total probs_j - m, l_j, n_j), where the one number m that
    makes the sum right is found by SciPy's root finder.

    Args:
        probs: (k,) share that each cluster should get, sum 1.
        sizes: (k,) members n_j.
        total: samples kept of all.
        balance: l_j is int(total / k * balance), or 1 where balance is 0, and at most n_j - 1.
        repair: give the units that rounding loses to the largest fractions, so that the sum is `total`; without it each
            quota is rounded by itself, as in the released code.

    Returns:
        (k,) whole numbers.

    Raises:
        UsageError: shapes that differ, no cluster, a share or a size that is negative, or no quotas that meet the
            bounds.

    Examples:
        >>> quota_qp(np.array([0.7, 0.2, 0.1]), np.array([20, 100, 100]), 60).tolist()
        [20, 23, 17]
    """
    checked_share(balance, "balance")
    probs, sizes = np.asarray(probs, np.float64), np.asarray(sizes)
    if probs.ndim != 1 or probs.shape != sizes.shape or not len(probs):
        raise UsageError(f"probs and sizes must have one entry a cluster, got shapes {probs.shape} and {sizes.shape}")
    if not (np.isfinite(probs) & (probs >= 0)).all() or (sizes < 0).any():
        raise UsageError("probs must be finite and at least 0, and sizes at least 0")
    k = len(sizes)
    least = int(total / k * balance) if balance > 0 else 1
    lower = np.clip(np.minimum(least, sizes - 1), 0, None).astype(np.float64)
    upper = sizes.astype(np.float64)
    if not lower.sum() <= total <= upper.sum():
        raise UsageError(
            f"{number_of(total, 'sample')} cannot be kept of {number_of(k, 'cluster')} that "
            f"keep {int(lower.sum())} to {int(upper.sum())}: keep "
            "more, or make fewer clusters"
        )
    expected = probs * total

    def surplus(m: float) -> float:
        return float(np.clip(expected - m, lower, upper).sum() - total)

    low, high = float((expected - upper).min()), float((expected - lower).max())
    # surplus falls from sum n_j - total >= 0 to sum l_j - total <= 0; where it is 0 at an end there is nothing to find.
    ends = [end for end in (low, high) if surplus(end) == 0]
    m = ends[0] if ends else brentq(surplus, low, high, xtol=1e-12, rtol=1e-14, maxiter=500)
    x = np.clip(expected - m, lower, upper)
    if not repair:
        return np.rint(x).astype(np.int64)
    x = np.where(np.abs(x - np.rint(x)) < 1e-7, np.rint(x), x)  # the root is exact to about 1e-9
    whole = np.floor(x).astype(np.int64)
    missing = total - int(whole.sum())
    order = np.lexsort((np.arange(k), -(x - whole)))
    open_ = order[whole[order] < sizes[order]]
    whole[open_[:missing]] += 1
    return whole


@dataclass(frozen=True)
class ClusterSpread:
    """Size and mean distance to the centroid of each cluster."""

    sizes: Int[np.ndarray, "k"]
    d_intra: Float[np.ndarray, "k"]


class _SpreadStatistic:
    """Counts the members of clusters and sums their distances, exactly."""

    def __init__(self, k: int, assigned: Callable[[Shard], tuple[np.ndarray, np.ndarray]]) -> None:
        self.assigned = assigned
        self.sizes, self.sums = np.zeros(k, np.int64), np.zeros(k, np.int64)

    def update(self, shard: Shard) -> None:
        labels, distances = self.assigned(shard)
        there = labels >= 0
        self.sizes += np.bincount(labels[there], minlength=len(self.sizes))
        np.add.at(self.sums, labels[there], np.rint(distances[there] * _UNIT).astype(np.int64))

    def __getstate__(self) -> dict[str, Any]:
        return {"sizes": self.sizes, "sums": self.sums}

    def merge(self, other: _SpreadStatistic) -> None:
        self.sizes += other.sizes
        self.sums += other.sums

    def result(self) -> ClusterSpread:
        with np.errstate(invalid="ignore", divide="ignore"):
            return ClusterSpread(self.sizes, self.sums / _UNIT / self.sizes)


@dataclass(frozen=True, kw_only=True)
class ClusterPruner(ClusterRule):
    """Keep a share of the pool with a quota for every concept cluster, its least typical members first.

    Of "Effective pruning of web-scale datasets based on complexity of concept clusters" (arXiv 2401.04578): a cluster's
    complexity is its spread times its distance from its neighbours (`cluster_complexity`), shares are softmax(C / tau),
    and quotas the nearest that the sizes allow (`quota_qp`). It belongs after deduplication and a filter by CLIP score:
    the farthest members of a pool with noise are its noise, and duplicates are far by chance.

    Args:
        embedding: column of embeddings, of pictures by a strong encoder.
        k: number of clusters; the paper has 500 for 280 million pairs, 100 for 128 million.
        keep_share: share of the samples that reach the rule and have an embedding; floor(keep_share * N) are kept.
        tau: temperature; 0.1 in the paper, 0.5 by default in the released script. Complexities are small numbers, so
            it decides how unequal quotas are.
        quota: "density" as above, "uniform" for equal shares, "size" for shares by cluster size.
        order: "hard" keeps the farthest from the centroid, "easy" the nearest, "random" any.
        balance: lower bound of quotas, see `quota_qp`.
        neighbours: of a centroid, for its distance from others.
        iterations: most steps of k-means.

    Raises:
        UsageError: a setting out of range; in a run, fewer samples kept than clusters need.
    """

    keep_share: float = 0.4
    tau: float = 0.1
    quota: Literal["density", "uniform", "size"] = "density"
    order: Literal["hard", "easy", "random"] = "hard"
    balance: float = 0.0
    neighbours: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        checked_share(self.keep_share, "keep_share")
        checked_share(self.balance, "balance")
        if not self.tau > 0 or self.neighbours < 1:
            raise UsageError(f"tau is above 0 and neighbours at least 1, got {self.tau} and {self.neighbours}")
        if self.quota not in ("density", "uniform", "size") or self.order not in ("hard", "easy", "random"):
            raise UsageError(
                "quota is density, uniform or size and order hard, easy or random, got "
                f"{self.quota!r} and {self.order!r}"
            )

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return f"within the {self.quota} quota of its cluster, {self.order} first"

    def statistics(self, draws: HashDraws) -> Mapping[str, Callable[[Statistics], PoolStatistic]]:
        """See `KeepRule`."""
        return {
            "centroids": self.fitted(draws),
            "spread": lambda statistics: _SpreadStatistic(self.k, lambda shard: self.assigned(shard, statistics)),
            "ranking": lambda statistics: RankingStatistic(
                lambda shard: self._score(shard, statistics, draws), lambda shard: self.assigned(shard, statistics)[0]
            ),
        }

    def _score(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Float[np.ndarray, "n"]:
        labels, distances = self.assigned(shard, statistics)
        score = {"hard": distances, "easy": -distances, "random": draws(shard.keys)}[self.order]
        return np.where(labels >= 0, score, np.nan)

    def probabilities(self, statistics: Statistics) -> Float[np.ndarray, "k"]:
        """The share of the kept samples that each cluster should get."""
        spread: ClusterSpread = statistics["spread"]
        if self.quota == "size":
            return spread.sizes / max(int(spread.sizes.sum()), 1)
        if self.quota == "uniform":
            return np.full(self.k, 1 / self.k)
        return softmax(
            cluster_complexity(statistics["centroids"], spread.d_intra, neighbours=self.neighbours)[0] / self.tau
        )

    def quotas(self, statistics: Statistics) -> Int[np.ndarray, "k"]:
        """How many samples each cluster keeps."""
        sizes = statistics["spread"].sizes
        total = int(count_of_share(self.keep_share, sizes.sum(keepdims=True))[0])
        return quota_qp(self.probabilities(statistics), sizes, total, balance=self.balance)

    def _counts(self, statistics: Statistics, _: Int[np.ndarray, "G"]) -> Int[np.ndarray, "G"]:
        groups = statistics["ranking"].groups
        return np.where(groups >= 0, self.quotas(statistics)[groups], 0)

    def settled(self, statistics: Statistics) -> Statistics:
        """See `KeepRule`."""
        return {**statistics, "ranking": statistics["ranking"].settled(partial(self._counts, statistics))}

    def _cuts(self, statistics: Statistics) -> RankCuts:
        cuts: RankCuts = statistics["ranking"].cuts(partial(self._counts, statistics))
        return cuts

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        labels = self.assigned(shard, statistics)[0]
        return self._cuts(statistics).keeps(self._score(shard, statistics, draws), shard.keys, labels)

    def figures(self, statistics: Statistics) -> dict[str, Any]:
        """See `KeepRule`: sizes, complexities and quotas of the clusters."""
        spread, quotas = statistics["spread"], self.quotas(statistics)
        complexity, _ = cluster_complexity(statistics["centroids"], spread.d_intra, neighbours=self.neighbours)
        return {
            "clusters": self.k,
            "clusters kept whole": int((quotas == spread.sizes).sum()),
            "smallest quota": int(quotas.min()),
            "largest quota": int(quotas.max()),
            "sizes": spread.sizes.tolist(),
            "complexity": [round(float(value), 6) for value in complexity],
            "quotas": quotas.tolist(),
        }
