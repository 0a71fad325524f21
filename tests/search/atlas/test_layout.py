"""Layouts against scikit-learn, closed forms and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from sklearn.decomposition import PCA

from binderclip.errors import UsageError
from binderclip.search.atlas.layout import fitted_perplexity, grid_cells, neighbours_kept, planar_layout


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def rows() -> np.ndarray:
    """Three groups of 20 directions."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 16))
    return unit(np.repeat(centres, 20, 0) + 0.3 * rng.normal(size=(60, 16)))


def test_the_linear_layout_is_scikit_learns_components(rows: np.ndarray) -> None:
    ours, theirs = planar_layout(rows, method="pca"), PCA(2).fit_transform(rows)
    ratio = pdist(theirs) / pdist(ours)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("method", ["tsne", "pca"])
def test_up_to_three_pictures_keep_their_distances(rows: np.ndarray, count: int, method: str) -> None:
    few = rows[:: 60 // count][:count]
    ratio = pdist(planar_layout(few, method=method)) / pdist(few)
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 9])
def test_what_is_alike_shares_a_place(rows: np.ndarray, count: int) -> None:
    np.testing.assert_array_equal(planar_layout(rows[:1].repeat(count, 0)), np.full((count, 2), 0.5))


def test_tsne_keeps_more_neighbours_than_components_do(rows: np.ndarray) -> None:
    places = planar_layout(rows, perplexity=10)
    low, high = places.min(0), places.max(0)
    assert (high - low).max() == pytest.approx(1)
    np.testing.assert_allclose((low + high) / 2, 0.5, atol=1e-9)
    np.testing.assert_array_equal(places, planar_layout(rows, perplexity=10))
    linear, none = planar_layout(rows, method="pca"), np.random.default_rng(0).random((60, 2))
    kept = [neighbours_kept(rows, each) or 0.0 for each in (places, linear, none)]
    assert kept[0] > kept[1] > kept[2] + 0.2
    group = np.repeat(np.arange(3), 20)
    nearest = cdist(places, places).argsort(1)[:, 1]
    assert bool((group[nearest] == group).all())


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (5, 4 / 3), (91, 30), (1000, 30)])
def test_few_pictures_bring_the_perplexity_down(count: int, expected: float) -> None:
    assert fitted_perplexity(30, count) == pytest.approx(expected)


def test_trustworthiness_is_that_of_the_paper() -> None:
    rng = np.random.default_rng(1)
    rows, places, k, n = unit(rng.normal(size=(14, 5))), rng.random((14, 2)), 4, 14
    ranks = cdist(rows, rows, "cosine").argsort(1).argsort(1)  # 0 is the row itself
    near = cdist(places, places).argsort(1)[:, 1 : k + 1]
    penalty = sum(max(0, int(ranks[i, j]) - k) for i in range(n) for j in near[i])
    assert neighbours_kept(rows, places, neighbours=k) == pytest.approx(1 - 2 / (n * k * (2 * n - 3 * k - 1)) * penalty)
    assert neighbours_kept(rows[:2], places[:2]) is None
    assert 0 <= (neighbours_kept(rows[:3], places[:3]) or 0) <= 1


def test_a_grid_moves_places_as_little_as_any_arrangement() -> None:
    places = np.random.default_rng(3).random((4, 2))
    cells = grid_cells(places, 2)
    assert len({tuple(cell) for cell in cells.tolist()}) == 4
    squares = np.array([(x, y) for y in (0, 1) for x in (0, 1)])

    def cost(order: np.ndarray) -> float:
        return float((((order + 0.5) / 2 - places) ** 2).sum())

    assert cost(cells) == pytest.approx(min(cost(squares[list(each)]) for each in itertools.permutations(range(4))))
    crowd = grid_cells(np.full((50, 2), 0.5), 8)
    assert len({tuple(cell) for cell in crowd.tolist()}) == 50


def test_what_cannot_be_laid_out_is_said(rows: np.ndarray) -> None:
    with pytest.raises(UsageError, match="rows is empty"):
        planar_layout(rows[:0])
    with pytest.raises(UsageError, match="method"):
        planar_layout(rows, method="circle")
    with pytest.raises(UsageError, match="4 cells for 5 places"):
        grid_cells(np.zeros((5, 2)), 2)
