"""Results of several as they come; an error of all of them is that of one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from binderclip.errors import NotSupported
from binderclip.tasks.together import results_or_errors


def test_a_failure_costs_its_own_result_alone_and_nothing_is_made_twice() -> None:
    made: list[str] = []

    def make(name: str) -> str:
        made.append(name)
        if name == "b":
            raise NotSupported("no b")
        return name.upper()

    def together() -> Iterator[tuple[str, str]]:
        for name in ("c", "b", "a"):
            yield name, make(name)

    alone = {name: lambda name=name: make(name) for name in "abc"}
    outcomes = results_or_errors(together(), alone)
    # The first is there before the second is made.
    assert next(outcomes) == ("c", "C")
    assert made == ["c"]
    (first, a), (second, error) = outcomes
    assert (first, a, second) == ("a", "A", "b")
    assert isinstance(error, NotSupported)
    assert made == ["c", "b", "a", "b"]


def test_a_fault_of_the_program_is_not_taken_for_a_result() -> None:
    def together() -> Iterator[tuple[str, int]]:
        yield "a", 1
        raise ZeroDivisionError

    outcomes = results_or_errors(together(), {"a": lambda: 1, "b": lambda: 2})
    assert next(outcomes) == ("a", 1)
    with pytest.raises(ZeroDivisionError):
        next(outcomes)
