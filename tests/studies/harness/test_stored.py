"""The stored results: what a criterion compares is not the same thing twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from binderclip.studies import Criterion, Row, Table, load_study, results_in, value_of

RESULTS = Path(__file__).resolve().parents[3] / "docs" / "results"
SATURATED = {
    ("p031", "sortedAP ranks nested errors with a higher tau than AJI"): "both rank all of them rightly, at a tau of 1",
    ("p169", "the code length follows the order of cues more closely than a linear classifier's error"): (
        "ranks of four cues: code length and error, computed apart, put them in one order for every seed"
    ),
}
"""Comparisons whose two sides were looked at: both as good as can be, or ranks so coarse that they agree."""


# Read once: all of them are ten megabytes.
STORED = results_in(RESULTS)


def measured_by_its_criteria() -> list[str]:
    """Papers whose stored rows are those that the criteria of today read."""
    return [
        paper for paper, result in STORED.items() if result.criteria and result.criteria == load_study(paper).registered
    ]


@pytest.mark.parametrize("paper", measured_by_its_criteria())
def test_the_two_sides_of_every_comparison_differ_in_some_seed(paper: str, same_twice) -> None:
    result, study = STORED[paper], load_study(paper)
    if result.stopped:
        return
    judged = [c for c in (*study.criteria, study.rival) if c is not None]
    checks = [check for check in result.checks if check.role != "precondition"]
    assert [check.text for check in checks] == [criterion.text for criterion in judged]
    for criterion in judged:
        if (paper, criterion.text) not in SATURATED:
            assert not same_twice(criterion, result.table), f"{paper}: {criterion.text}"


def test_one_thing_compared_with_itself_is_found(same_twice) -> None:
    table = Table(Row("m", method, seed / 7, seed=seed) for seed in range(8) for method in ("a", "b"))
    twice = Criterion.paired("a beats b", value_of("m", "a"), value_of("m", "b"))
    assert same_twice(twice, table)
    bound = Criterion.at_least("a above 0", value_of("m", "a"), 0.0)
    assert not same_twice(bound, table)
    other = Table([*(row for row in table.rows if (row.method, row.seed) != ("b", 3)), Row("m", "b", 0.9, seed=3)])
    assert not same_twice(twice, other)
