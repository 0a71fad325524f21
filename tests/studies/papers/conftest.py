"""What the tests of verdict rules share: a rule applied to made-up rows, as if there were seeds enough."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from binderclip.studies import Check, Criterion, Table, load_study

Decide = Callable[[Sequence[Criterion], Table], tuple[str, list[Check]]]


@pytest.fixture
def decide() -> Decide:
    """`(all met | essential met | not met, checks)`: rows are repeated so often that n never decides.

    Criteria without an interval count as their test says; what they may not do to a verdict is tested elsewhere.
    """

    def decided(criteria: Sequence[Criterion], table: Table) -> tuple[str, list[Check]]:
        many = Table(replace(row, seed=row.seed + 1000 * copy) for copy in range(25) for row in table.rows)
        checks = [criterion.check(many) for criterion in criteria]
        if all(check.outcome == "seen" for check in checks):
            return "all met", checks
        return "essential met" if all(
            check.outcome == "seen" for check in checks if check.essential
        ) else "not met", checks

    return decided


@pytest.fixture
def fails(decide: Decide) -> Callable[[str, Table, str, Sequence[str]], None]:
    """Asserts that a study's criteria give a verdict on made-up rows, and which of them, by their beginnings, fail."""

    def failed(paper: str, table: Table, verdict: str, failing: Sequence[str]) -> None:
        found, checks = decide(load_study(paper).criteria, table)
        assert found == verdict
        missed = [check.text for check in checks if check.outcome != "seen"]
        assert len(missed) == len(failing), missed
        assert all(text.startswith(start) for text, start in zip(missed, failing, strict=True)), missed

    return failed
