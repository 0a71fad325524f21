"""Random rows for a null: all that is read is there, within its range, and another seed gives others."""

from __future__ import annotations

import pytest

from binderclip.errors import UsageError
from binderclip.studies import Criterion, Row, Table
from binderclip.studies.harness.null import in_place, random_rows
from binderclip.studies.harness.quantities import combined, value_of


def test_every_row_that_is_read_is_there_once() -> None:
    a, b = value_of("m", "a", "x", "y"), value_of("m", "b")
    criteria = [Criterion.paired("one", a, combined("most", b, a)), Criterion.below("two", b.log_over(a), 3.0)]
    rows = random_rows(criteria, 5, 2.0, 3.0)
    assert sorted((r.metric, r.method, r.setting) for r in rows) == [("m", "a", "x"), ("m", "a", "y"), ("m", "b", "")]
    assert all(2 <= row.value <= 3 for row in rows)
    assert [c.check(Table(rows)).n for c in criteria] == [1, 1]
    assert random_rows(criteria, 5, 2.0, 3.0) == rows
    assert random_rows(criteria, 6, 2.0, 3.0) != rows


def test_criteria_without_quantities_need_no_row() -> None:
    assert random_rows([Criterion("words", lambda table: (True, ""))], 0) == []


def test_a_random_method_that_was_measured_takes_the_place_of_the_method() -> None:
    rows = [Row("m", name, value, seed=seed) for seed in (3, 4) for name, value in (("a", 9), ("b", seed), ("dice", 7))]
    rows.append(Row("only of a", "a", 1))
    placed = in_place(rows, {"a": "dice"})
    assert [(r.method, r.value, r.seed) for r in placed] == [
        ("b", 3, 3), ("dice", 7, 3), ("b", 4, 4), ("dice", 7, 4), ("a", 7, 3), ("a", 7, 4),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="no 'only of a' of 'a'"):
        Table(placed).values("only of a", "a")
    with pytest.raises(UsageError, match="nothing was measured of 'coin'"):
        in_place(rows, {"a": "coin"})
