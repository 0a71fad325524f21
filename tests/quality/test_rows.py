"""Rows of a training set in random order."""

from __future__ import annotations

import pytest

from binderclip.errors import UsageError
from binderclip.quality.rows import ShuffledRows


def test_a_pass_has_no_row_twice_and_whole_batches_alone() -> None:
    rows = ShuffledRows(11, 4, seed=3)
    passes = [[part.tolist() for part in rows] for _ in range(2)]
    for batches in passes:
        assert [len(part) for part in batches] == [4, 4]
        assert len({row for part in batches for row in part}) == 8
    assert passes[0] != passes[1]
    assert [part.tolist() for part in ShuffledRows(11, 4, seed=3)] == passes[0]
    assert [sorted(part.tolist()) for part in ShuffledRows(3, 4, seed=0)] == [[0, 1, 2]]
    for count, batch in ((0, 1), (1, 0)):
        with pytest.raises(UsageError, match="at least 1"):
            ShuffledRows(count, batch, 0)
