"""Cuts of grids against all labellings of small ones (Boykov, Veksler, Zabih, PAMI 2001)."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from binderclip.segment.cut.grid import GridGraph, Links, contrast_edges, expand

SHAPE = (2, 4)
STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))


def random_edges(rng: np.random.Generator) -> list[tuple[int, int, np.ndarray]]:
    return [(down, right, rng.uniform(0, 1.5, size=SHAPE)) for down, right in STEPS]


def potts(labels: np.ndarray, costs: np.ndarray, edges) -> float:
    """The energy pixel by pixel, without the code's list of links."""
    total = 0.0
    for i, j in itertools.product(range(SHAPE[0]), range(SHAPE[1])):
        total += costs[labels[i, j], i, j]
        for down, right, weights in edges:
            a, b = i + down, j + right
            if 0 <= a < SHAPE[0] and 0 <= b < SHAPE[1] and labels[i, j] != labels[a, b]:
                total += weights[i, j]
    return total


def every(labels: int) -> list[np.ndarray]:
    return [np.array(each).reshape(SHAPE) for each in itertools.product(range(labels), repeat=SHAPE[0] * SHAPE[1])]


@pytest.mark.parametrize("seed", range(5))
def test_a_cut_around_decided_pixels_is_the_best_that_keeps_them(seed: int) -> None:
    rng = np.random.default_rng(seed)
    costs, edges = rng.normal(size=(2, *SHAPE)), random_edges(rng)
    free, decided = rng.random(SHAPE) < 0.6, rng.random(SHAPE) < 0.5
    allowed = [labels for labels in every(2) if np.array_equal(labels[~free], decided[~free].astype(int))]
    found = GridGraph(Links(edges, SHAPE), free).cut(costs[1], costs[0], decided)
    assert np.array_equal(found[~free], decided[~free])
    best = min(potts(labels, costs, edges) for labels in allowed)
    # Costs are rounded to thousandths for the integer flow.
    assert potts(found.astype(int), costs, edges) == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("partly", [False, True])
def test_no_expansion_of_any_label_would_gain_after_the_last_one(seed: int, partly: bool) -> None:
    rng = np.random.default_rng(10 + seed)
    costs, edges = 1.5 * rng.random((3, *SHAPE)), random_edges(rng)
    start = rng.integers(0, 3, SHAPE)
    free = rng.random(SHAPE) < 0.7 if partly else np.ones(SHAPE, dtype=bool)
    found = expand(costs, Links(edges, SHAPE), start, free=free, sweeps=20)
    energy = potts(found, costs, edges)
    assert np.array_equal(found[~free], start[~free])
    assert energy <= potts(start, costs, edges) + 1e-9
    for label, taken in itertools.product(range(3), every(2)):
        moved = np.where(taken.astype(bool) & free, label, found)
        assert potts(moved, costs, edges) >= energy - 0.02
    if not partly:
        assert energy <= 2 * min(potts(labels, costs, edges) for labels in every(3)) + 0.02


def test_two_labels_are_cut_exactly() -> None:
    rng = np.random.default_rng(0)
    costs, edges = rng.random((2, *SHAPE)), random_edges(rng)
    found = expand(costs, Links(edges, SHAPE), np.zeros(SHAPE, dtype=int))
    assert potts(found, costs, edges) == pytest.approx(min(potts(e, costs, edges) for e in every(2)), abs=0.02)


def test_weights_fall_with_contrast_and_with_the_distance_of_neighbours() -> None:
    colours = np.zeros((3, 4, 3))
    colours[:, 2:] = 0.5
    weights = {(down, right): weight for down, right, weight in contrast_edges(colours, 10.0)}
    assert weights[0, 1][1, 0] == pytest.approx(10.0)
    assert weights[1, 1][0, 0] == pytest.approx(10.0 / np.sqrt(2))
    # Of the steps between inner pixels of this picture: right 0 or .75, down 0, both diagonals 0 or .75; one column of
    # two crosses the border in each.
    mean = (0.375 + 0.0 + 0.375 + 0.375) / 4
    assert weights[0, 1][1, 1] == pytest.approx(10.0 * np.exp(-0.75 / (2 * mean)))
