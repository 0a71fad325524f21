"""Two filters on one pool (p102, arXiv 2309.13770), against sets."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.curate import ScoreThreshold, ScoreTopFraction, compare_filters
from binderclip.errors import UsageError

from .pools import ListTable, made_pool


@pytest.mark.parametrize("shards", [1, 7])
def test_overlap_swaps_and_examples_are_those_of_sets(shards: int) -> None:
    columns, names = made_pool(300)
    table = ListTable(columns, names, shards)
    rules = [[ScoreTopFraction(column=column, fraction=0.4)] for column in ("score", "other")]
    found = compare_filters(table, *rules, examples=7)
    top = set(np.argsort(-columns["other"])[:120].tolist())
    score = columns["score"]
    least = np.sort(score)[-120]
    assert (found.pool, found.first, found.second) == (300, 120, 120)
    # ties are told apart by key: what lies above the cut is kept for certain
    sure = set(np.flatnonzero(score > least).tolist())
    assert len(sure & top) <= found.both <= len({*sure, *np.flatnonzero(score == least).tolist()} & top)
    assert found.swaps == (120 - found.both, 120 - found.both)
    assert found.overlap == pytest.approx(found.both / (240 - found.both))
    assert len(found.only_first) == len(found.only_second) == 7
    for sample in found.only_second:
        row = names.index(sample.name)
        assert row in top
        assert score[row] <= least
        assert sample.text == sample.name
        assert sample.values == pytest.approx({"score": score[row], "other": columns["other"][row]})
    assert not {sample.name for sample in found.only_first} & {names[row] for row in top}
    whole = compare_filters(ListTable(columns, names), *rules, examples=7)
    assert whole == found, "the cut into shards changes nothing"
    assert [which for which, _, _ in found.rows()] == ["first", "second", "both", "only first", "only second"]


def test_a_filter_held_against_itself_and_against_nothing() -> None:
    columns, names = made_pool(60)
    table = ListTable(columns, names, 3)
    rule = [ScoreThreshold(column="score", minimum=0.5)]
    same = compare_filters(table, rule, rule)
    assert (same.overlap, same.swaps, same.only_first, same.only_second) == (1.0, (0, 0), [], [])
    none = [ScoreThreshold(column="score", minimum=2.0)]
    assert compare_filters(table, none, none).overlap == 1.0
    apart = compare_filters(table, rule, none, examples=0)
    assert (apart.overlap, apart.both, apart.only_first) == (0.0, 0, [])
    with pytest.raises(UsageError, match="examples is -1"):
        compare_filters(table, rule, none, examples=-1)
