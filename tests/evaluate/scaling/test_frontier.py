"""The frontier (p039, arXiv 2404.08197) against the comparison of all pairs; mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binderclip.errors import UsageError
from binderclip.evaluate import best_at_budget, compute_frontier

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=25)  # with many ties


def dominated(row: tuple[int, int], points: list[tuple[int, int]]) -> bool:
    return any(
        other[0] <= row[0] and other[1] <= row[1] and (other[0] < row[0] or other[1] < row[1]) for other in points
    )


@given(points=POINTS)
def test_it_holds_what_no_other_point_dominates(points: list[tuple[int, int]]) -> None:
    cost, error = (np.array(side) for side in zip(*points, strict=True))
    found = compute_frontier(cost, error)
    assert sorted(found.tolist()) == [row for row in range(len(points)) if not dominated(points[row], points)]
    assert bool((np.diff(cost[found]) >= 0).all())
    assert bool((np.diff(error[found]) <= 0).all())


@given(points=POINTS, budgets=st.lists(st.integers(-1, 8), min_size=1, max_size=5))
def test_the_best_at_a_budget_is_the_best_that_it_pays_for(points: list[tuple[int, int]], budgets: list[int]) -> None:
    cost, error = zip(*points, strict=True)
    for budget, row in zip(budgets, best_at_budget(cost, error, budgets).tolist(), strict=True):
        paid = [point for point in points if point[0] <= budget]
        if not paid:
            assert row == -1
        else:
            assert (error[row], cost[row]) == min((e, c) for c, e in paid)


def test_mistakes_are_named() -> None:
    for cost, error in (([], []), ([1.0], [1.0, 2.0]), ([1.0], [np.nan]), (np.ones((2, 2)), np.ones((2, 2)))):
        with pytest.raises(UsageError, match="numbers of the same points"):
            compute_frontier(cost, error)  # type: ignore[arg-type]
