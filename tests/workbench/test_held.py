"""What pages leave in memory: a value a page, and no more pages than there is room for."""

from __future__ import annotations

from pathlib import Path

from binderclip.workbench.held import HeldByPage


def test_a_page_has_its_last_value_and_the_page_that_ran_longest_ago_none() -> None:
    held = HeldByPage[int](most=2)
    first, second, third = (Path(name) for name in ("first", "second", "third"))
    assert held.get(first) is None
    held.hold(first, 1)
    held.hold(second, 2)
    held.hold(first, 3)  # ran again, later than the second
    held.hold(third, 4)
    assert [held.get(page) for page in (first, second, third)] == [3, None, 4]
