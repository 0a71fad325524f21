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
    values = (("a", 9), ("c", 9), ("b", 0), ("dice", 7))
    rows = [Row("m", name, value + seed / 10, seed=seed) for seed in (3, 4, 6) for name, value in values]
    rows.append(Row("only of a", "a", 1, seed=3))
    placed = in_place(rows, {"a": "dice", "c": "dice"})
    table = Table(placed)
    assert table.values("m", "b").tolist() == [0.3, 0.4, 0.6]
    assert table.values("m", "dice").tolist() == [7.3, 7.4, 7.6]
    # The next seed's, and that after it: no draw is held against itself.
    assert table.values("m", "a").tolist() == [7.4, 7.6, 7.3]
    assert table.values("m", "c").tolist() == [7.6, 7.3, 7.4]
    same = Table(in_place(rows, {"a": "dice", "c": "dice"}, same_seeds=True))
    assert same.values("m", "a").tolist() == same.values("m", "c").tolist() == [7.3, 7.4, 7.6]
    with pytest.raises(UsageError, match="no 'only of a' of 'a'"):
        table.values("only of a", "a")
    with pytest.raises(UsageError, match="nothing was measured of 'coin'"):
        in_place(rows, {"a": "coin"})
