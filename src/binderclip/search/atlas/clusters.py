"""Clusters of pictures, and the words of a vocabulary that fit each of them more than the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from binderclip.errors import UsageError
from binderclip.settings import check_choice

__all__ = ["CLUSTERINGS", "cluster_means", "cluster_rows", "distinctive_words"]

CLUSTERINGS = ("k-means", "hdbscan")
NOISE = -1
"""Label of HDBSCAN for rows that belong to no cluster."""
MOST_TRIED = 20
"""Largest number of clusters that is tried where none was given."""
RESTARTS = 4
"""Starts of k-means, of which the best counts."""
SCORED = 1000
"""Rows of which all pairs are compared for a silhouette."""
HALF = 0.5
"""Of the first word's contrast: below it a word says little of a cluster."""


@dataclass(frozen=True)
class Clusters:
    """Clusters of n rows.

    Attributes:
        labels: (n,) of each row, 0 for the largest cluster, -1 for none.
        silhouette: mean over the rows, from -1 to 1, larger where clusters lie apart; None where there is one alone.
    """

    labels: Int[np.ndarray, "n"]
    silhouette: float | None

    @property
    def count(self) -> int:
        """How many clusters there are, those that belong to none left out."""
        return int(self.labels.max(initial=NOISE)) + 1


def cluster_rows(
    rows: Float[np.ndarray, "n d"], *, method: str = "k-means", count: int | None = None, least: int = 5, seed: int = 0
) -> Clusters:
    """Cluster unit vectors by k-means or HDBSCAN of scikit-learn, the largest cluster first.

    Args:
        rows: unit vectors.
        method: `k-means`, which puts every row into a cluster, or `hdbscan`, which leaves out what is near to none.
        count: clusters of k-means, at most the number of rows that differ; None: the number from 2 to 20 whose mean
            silhouette is largest.
        least: rows of the smallest cluster of HDBSCAN.
        seed: of k-means.

    Raises:
        UsageError: no row, an unknown method, or a count below 1.

    Papers: Rousseeuw, Silhouettes, J. Comput. Appl. Math. 1987. Campello et al., Density-based clustering based on
    hierarchical density estimates, PAKDD 2013.
    """
    check_choice("method", method, CLUSTERINGS)
    if not len(rows):
        raise UsageError("rows is empty: clusters need at least one")
    if count is not None and count < 1:
        raise UsageError(f"count={count}: at least 1")
    differing = len(np.unique(rows.round(6), axis=0))
    if differing == 1:
        return Clusters(np.zeros(len(rows), dtype=np.int64), None)
    if method == "hdbscan":
        from sklearn.cluster import HDBSCAN

        if len(rows) < max(2, least):
            return Clusters(np.full(len(rows), NOISE), None)
        labels = HDBSCAN(min_cluster_size=least, copy=True).fit_predict(rows)
    elif count is not None:
        labels = _k_means(rows, min(count, differing), seed)
    else:
        tried = range(2, min(MOST_TRIED, differing - 1) + 1)
        if not tried:  # two rows that differ: a silhouette needs fewer clusters than rows
            labels = _k_means(rows, differing, seed)
        else:
            each = [_k_means(rows, k, seed) for k in tried]
            labels = max(each, key=lambda own: _silhouette(rows, own, seed) or -1.0)
    labels = _largest_first(labels)
    return Clusters(labels, _silhouette(rows, labels, seed))


def _k_means(rows: Float[np.ndarray, "n d"], count: int, seed: int) -> Int[np.ndarray, "n"]:
    from sklearn.cluster import KMeans

    return KMeans(count, n_init=RESTARTS, random_state=seed).fit_predict(rows).astype(np.int64)


def _silhouette(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"], seed: int) -> float | None:
    """Of the rows that are in a cluster; of 1,000 of them where there are more."""
    from sklearn.metrics import silhouette_score

    inside = labels != NOISE
    rows, labels = rows[inside], labels[inside]
    if not 2 <= len(np.unique(labels)) < len(rows):
        return None
    if len(rows) > SCORED:
        chosen = np.linspace(0, len(rows) - 1, SCORED).round().astype(int)
        rows, labels = rows[chosen], labels[chosen]
        if not 2 <= len(np.unique(labels)) < len(rows):
            return None
    return float(silhouette_score(rows, labels, metric="cosine"))


def _largest_first(labels: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """Labels renamed by size; of clusters of one size that of the earlier row comes first."""
    known = [label for label in dict.fromkeys(labels.tolist()) if label != NOISE]
    order = sorted(known, key=lambda label: -int((labels == label).sum()))
    table = {label: place for place, label in enumerate(order)} | {NOISE: NOISE}
    return np.array([table[label] for label in labels.tolist()], dtype=np.int64)


def cluster_means(rows: Float[np.ndarray, "n d"], labels: Int[np.ndarray, "n"]) -> Float[np.ndarray, "c d"]:
    """Mean of each cluster's rows, as a unit vector.

    Args:
        rows: unit vectors. labels: from 0 without a gap; what is -1 counts nowhere.
    """
    count = int(labels.max(initial=NOISE)) + 1
    means = np.stack([rows[labels == label].mean(0) for label in range(count)]) if count else rows[:0]
    return means / np.linalg.norm(means, axis=1, keepdims=True).clip(1e-12)


def distinctive_words(
    means: Float[np.ndarray, "c d"], words: Float[np.ndarray, "w d"], *, most: int = 3
) -> list[list[tuple[int, float]]]:
    """For each cluster the words that fit its mean more than the means of the others.

    Words are ranked by the cosine with the cluster's mean less the mean of the cosines with the others' (of a cluster
    that is alone by the cosine), those first that fit no other cluster better. Words less than half as distinctive as
    the cluster's first one are left out.

    Args:
        means: unit vectors of the clusters. words: unit vectors of the vocabulary's texts.
        most: words of a cluster.

    Returns:
        For each cluster (word's row, by how much it fits more), best first; empty where no word fits it more.
    """
    cosines = means @ words.T  # (c, w)
    count = len(cosines)
    others = (cosines.sum(0) - cosines) / (count - 1) if count > 1 else np.zeros_like(cosines)
    contrast = cosines - others
    best = cosines.argmax(0) if count else np.zeros(0, dtype=int)  # (w,)
    named = []
    for cluster, own in enumerate(contrast):
        order = np.argsort(-own, kind="stable")
        # A word that fits another cluster better stands here only where there is none of the cluster's own.
        chosen = [int(word) for word in order if best[word] == cluster] or [int(word) for word in order]
        enough = [word for word in chosen[:most] if own[word] > 0 and own[word] >= HALF * own[chosen[0]]]
        named.append([(word, float(own[word])) for word in enough])
    return named
