"""Semantic deduplication: of pictures that are nearly alike one is kept (SemDeDup)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from binderclip.curate.engine.arrays import read_npy
from binderclip.curate.engine.keys import KEY, Keys, key_order, search_keys
from binderclip.curate.engine.kmeans import nearest_centroids
from binderclip.curate.engine.rule import HashDraws, PoolStatistic, Statistics
from binderclip.curate.engine.shard import Shard
from binderclip.curate.rules.clusters import ClusterRule
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError


class _TwinStatistic:
    """Holds the embeddings of all clusters and finds in each who is nearly alike to somebody before."""

    holds_rows = True

    def __init__(self, assigned: Callable[[Shard], tuple], rows: Callable[[Shard], np.ndarray], most: float) -> None:
        self.assigned, self.rows, self.most = assigned, rows, most
        self._parts: list[tuple[np.ndarray, np.ndarray, Keys, np.ndarray]] = []

    def update(self, shard: Shard) -> None:
        labels, distances = self.assigned(shard)
        there = labels >= 0
        rows = self.rows(shard)[there].astype(np.float64)
        unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        self._parts.append((labels[there], distances[there], shard.keys[there], unit))

    def merge(self, other: _TwinStatistic) -> None:
        self._parts += other._parts

    def result(self) -> Keys:
        labels, distances, keys, rows = (np.concatenate(column) for column in zip(*self._parts, strict=True))
        order = key_order(keys, labels, -distances)  # the farthest from the centroid first: the least typical stays
        labels, keys, rows = labels[order], keys[order], rows[order]
        bounds = np.flatnonzero(np.diff(labels, prepend=-2, append=-2))
        twins = [keys[a:b][has_twin_before(rows[a:b], self.most)] for a, b in itertools.pairwise(bounds)]
        twin_keys = np.concatenate([np.empty(0, KEY), *twins])
        return twin_keys[key_order(twin_keys)]


BLOCK = 2048
"""Rows that are compared with all before them at once."""


def compared(n: float) -> float:
    """Pairs of rows that `has_twin_before` looks at among n: n^2 / 2, and the other half of each block."""
    return n * (n + min(n, BLOCK)) / 2


def has_twin_before(rows: Float[np.ndarray, "n d"], most: float, *, block: int = BLOCK) -> Bool[np.ndarray, "n"]:
    """Whether the cosine of a unit row with any row before it is more than `most`.

    Args:
        rows: in the order in which they are preferred.
        most: largest cosine of two that both stay.
        block: rows that are compared with all before them at once.
    """
    twins = np.zeros(len(rows), bool)
    for start in range(0, len(rows), block):
        part = rows[start : start + block] @ rows[: start + block].T  # (block, start + block)
        before = np.tri(part.shape[0], part.shape[1], k=start - 1, dtype=bool)
        twins[start : start + block] = ((part > most) & before).any(1)
    return twins


@dataclass(frozen=True, kw_only=True)
class SemanticDuplicates(ClusterRule):
    """Keep one of samples whose embeddings are nearly alike: the one farthest from the centroid of their cluster.

    As SemDeDup does it (arXiv 2303.09540): pairs are compared within clusters alone, and a sample goes if its cosine
    with any that is preferred to it is above 1 - eps. All embeddings are held in memory, 4 d bytes a sample.

    Args:
        embedding: column of embeddings; samples without one are dropped.
        k: number of clusters.
        eps: 0 to 2; a larger one drops more.
        iterations: most steps of k-means.

    Raises:
        UsageError: eps out of range.
    """

    eps: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.eps <= 2:
            raise UsageError(f"eps is {self.eps}; cosines of twins are above 1 - eps, so it is 0 to 2")

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return f"no cosine above {1 - self.eps:g} with one preferred to it in its cluster"

    def statistics(self, draws: HashDraws) -> Mapping[str, Callable[[Statistics], PoolStatistic]]:
        """See `KeepRule`."""
        return {
            "centroids": self.fitted(draws),
            "twins": lambda statistics: _TwinStatistic(lambda s: self.assigned(s, statistics), self.rows, 1 - self.eps),
        }

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        return (self.assigned(shard, statistics)[0] >= 0) & (search_keys(statistics["twins"], shard.keys) < 0)


@dataclass(frozen=True, kw_only=True)
class TargetClusters(ClusterRule):
    """Keep samples of clusters that a target picture falls into: DataComp's image-based filter.

    Args:
        targets: (m, d) embeddings of the target pictures by the model of the column; or the path of an `.npy` of them.
        embedding: column of embeddings.
        k: number of clusters; DataComp has 100,000.
        iterations: most steps of k-means.

    Raises:
        UsageError: no targets, or no array of rows.
    """

    targets: np.ndarray | str

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.targets, str):
            try:
                object.__setattr__(self, "targets", read_npy(self.targets))
            except DataError as error:
                raise UsageError(f"targets: {error}") from error
        rows = self.targets
        if not isinstance(rows, np.ndarray) or rows.ndim != 2 or not len(rows) or rows.dtype.kind not in "fiu":
            raise UsageError("targets are an array of embeddings, one row a picture")

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return "in a cluster of a target picture"

    def statistics(self, draws: HashDraws) -> Mapping[str, Callable[[Statistics], PoolStatistic]]:
        """See `KeepRule`."""
        return {"centroids": self.fitted(draws)}

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        assert isinstance(self.targets, np.ndarray)
        if self.targets.shape[1] != statistics["centroids"].shape[1]:
            raise UsageError(
                f"targets have {number_of(self.targets.shape[1], 'number')}, column "
                f"{self.embedding!r} {statistics['centroids'].shape[1]}"
            )
        target_labels, _ = nearest_centroids(self.targets, statistics["centroids"])
        return np.isin(self.assigned(shard, statistics)[0], target_labels[target_labels >= 0])
