"""Clusters against scikit-learn and known groups; words against a closed form."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score, silhouette_score

from binderclip.errors import UsageError
from binderclip.search.atlas.clusters import cluster_means, cluster_rows, distinctive_words

GROUPS = np.repeat([0, 1, 2, 3], [30, 20, 12, 8])


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Directions of four groups, the largest first, in a mixed order."""
    rng = np.random.default_rng(0)
    made = rng.normal(size=(4, 12))[GROUPS] + 0.25 * rng.normal(size=(len(GROUPS), 12))
    return (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("method", ["k-means", "hdbscan"])
def test_groups_are_found_without_their_number_and_the_largest_is_first(rows: np.ndarray, method: str) -> None:
    order = np.random.default_rng(1).permutation(len(rows))
    clusters = cluster_rows(rows[order], method=method)
    assert clusters.count == 4
    inside = clusters.labels >= 0
    assert inside.mean() > 0.8
    assert adjusted_rand_score(GROUPS[order][inside], clusters.labels[inside]) == 1
    sizes = np.bincount(clusters.labels[inside])
    assert sizes.tolist() == sorted(sizes, reverse=True)
    expected = silhouette_score(rows[order][inside], clusters.labels[inside], metric="cosine")
    assert clusters.silhouette == pytest.approx(float(expected))


def test_hdbscan_leaves_out_what_is_near_to_nothing(rows: np.ndarray) -> None:
    near = np.eye(3)[np.repeat([0, 1, 2], [9, 9, 1])] + 0.02 * np.random.default_rng(0).normal(size=(19, 3))
    labels = cluster_rows(near / np.linalg.norm(near, axis=1, keepdims=True), method="hdbscan").labels
    assert labels.tolist() == [0] * 9 + [1] * 9 + [-1]
    assert cluster_rows(rows[:3], method="hdbscan").labels.tolist() == [-1, -1, -1]


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (7, 7)])
def test_a_number_that_is_given_is_kept(rows: np.ndarray, count: int, expected: int) -> None:
    assert cluster_rows(rows, count=count).count == expected


@pytest.mark.parametrize("method", ["k-means", "hdbscan"])
def test_few_and_identical_rows(rows: np.ndarray, method: str) -> None:
    same = cluster_rows(rows[:1].repeat(6, 0), method=method, count=4 if method == "k-means" else None)
    assert (same.count, same.silhouette) == (1, None)
    assert cluster_rows(rows[:1], method=method).count == 1
    assert cluster_rows(rows[[0, 40]]).count == 2
    assert cluster_rows(rows[[0, 40, 69]]).count == 2
    assert cluster_rows(rows[[0, 0, 40]], count=3).count == 2


def test_means_are_unit_vectors_and_noise_counts_nowhere() -> None:
    rows = np.array([[1.0, 0], [0, 1], [0, -1]])
    means = cluster_means(rows, np.array([0, 0, -1]))
    np.testing.assert_allclose(means, [[0.5**0.5, 0.5**0.5]])
    assert cluster_means(rows, np.full(3, -1)).shape == (0, 2)


def test_a_word_that_fits_all_clusters_names_none() -> None:
    means = np.eye(3)[:2]
    common = np.array([0.6, 0.6, (1 - 0.72) ** 0.5])
    words = np.stack([common, [1, 0, 0], [0, 1, 0], [0.8, 0, 0.6], [0.1, 0, 0.99**0.5]])
    # Contrasts of the first: 0, 1, -1, 0.8 and 0.1, of which the last is less than half of the best.
    first, second = distinctive_words(means, words)
    assert [word for word, _ in first] == [1, 3]
    assert [value for _, value in first] == pytest.approx([1, 0.8])
    assert second == [(2, pytest.approx(1))]
    assert distinctive_words(means, words, most=1)[0] == [(1, pytest.approx(1))]
    # One that is alone gets what it is nearest to.
    assert [word for word, _ in distinctive_words(means[:1], words)[0]] == [1, 3, 0]
    assert distinctive_words(means[:0], words) == []


def test_clusters_without_a_word_of_their_own_share_the_nearest() -> None:
    near = np.array([[1.0, 0, 0], [0.96, 0.28, 0], [0, 0, 1.0]])
    words = np.array([[1.0, 0, 0], [0, 0, 1.0]])
    assert [[word for word, _ in own] for own in distinctive_words(near, words)] == [[0], [0], [1]]


def test_what_cannot_be_clustered_is_said(rows: np.ndarray) -> None:
    for given, text in (({"method": "dbscan"}, "method"), ({"count": 0}, "count=0: at least 1")):
        with pytest.raises(UsageError, match=text):
            cluster_rows(rows, **given)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="rows is empty"):
        cluster_rows(rows[:0])
