"""What the tests of the harness share: whether a criterion compares one thing with itself."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from binderclip.studies import Criterion, Table
from binderclip.studies.harness.criteria import Contrast


@pytest.fixture
def same_twice() -> Callable[[Criterion, Table], bool]:
    """Whether the two sides of a comparison are equal in every seed or item; a bound is no side."""

    def same(criterion: Criterion, table: Table) -> bool:
        if not isinstance(criterion, Contrast):
            check = criterion.check(table)
            return check.effect == check.low == check.high == 0 and check.effect is not None
        if criterion.b.how == "constant":
            return False
        values = (
            (criterion.a.items, criterion.b.items)
            if criterion.over == "items"
            else (criterion.a.values, criterion.b.values)
        )
        one, other = (side(table) for side in values)
        return bool(np.array_equal(one, other))

    return same
