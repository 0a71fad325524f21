"""What rules on clusters of embeddings share: centroids, and which one a sample is nearest to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float, Int

from binderclip.curate.engine.kmeans import CentroidStatistic, nearest_centroids
from binderclip.curate.engine.rule import HashDraws, KeepRule, PoolStatistic, Statistics
from binderclip.curate.engine.shard import Shard
from binderclip.curate.signals.scores import embeddings_of
from binderclip.errors import UsageError

POINTS = 256
"""Rows that k-means is fitted on, for each centroid, as faiss takes them."""


@dataclass(frozen=True, kw_only=True)
class ClusterRule(KeepRule):
    """A rule on clusters of spherical k-means over a column of embeddings.

    Args:
        embedding: column of embeddings.
        k: number of clusters, at most the samples that reach the rule.
        iterations: most steps of k-means.
    """

    embedding: str = "image_embedding"
    k: int = 100
    iterations: int = 100

    def __post_init__(self) -> None:
        if self.k < 1 or self.iterations < 1:
            raise UsageError(f"k and iterations are at least 1, got {self.k} and {self.iterations}")

    @property
    def needs(self) -> tuple[str, ...]:
        """See `KeepRule`."""
        return (self.embedding,)

    def rows(self, shard: Shard) -> Float[np.ndarray, "n d"]:
        """The embeddings of a shard."""
        return embeddings_of(shard, self.embedding)

    def centroids(self, draws: HashDraws, statistics: Statistics) -> PoolStatistic:
        """The statistic that fits the centroids."""
        return CentroidStatistic(
            self.rows, draws.part(0), self.k, sample=POINTS * self.k, seed=draws.seed, iterations=self.iterations
        )

    def fitted(self, draws: HashDraws) -> Callable[[Statistics], PoolStatistic]:
        """`centroids`, waiting for what was found before."""
        return partial(self.centroids, draws)

    def assigned(self, shard: Shard, statistics: Statistics) -> tuple[Int[np.ndarray, "n"], Float[np.ndarray, "n"]]:
        """Cluster of each sample and its cosine distance to the centroid; -1 and NaN without an embedding."""
        labels, cosines = nearest_centroids(self.rows(shard), statistics["centroids"])
        return labels, 1 - cosines
