"""Random rows for a null: all that is read is there, within its range, and another seed gives others."""

from __future__ import annotations

from binderclip.studies import Criterion, Table
from binderclip.studies.harness.null import random_rows
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
