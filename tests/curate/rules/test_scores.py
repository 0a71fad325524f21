"""Rules on one score, against sorting."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.curate import CurationPipeline, ScoreThreshold, ScoreTopFraction

from ..pools import ListTable, made_pool


@pytest.mark.parametrize("shards", [1, 7])
def test_the_smallest_fraction_is_the_head_of_the_sorted_scores(shards: int) -> None:
    columns, names = made_pool(200)
    columns["other"][3] = np.nan
    rule = ScoreTopFraction(column="other", fraction=0.1, smallest=True)
    done = CurationPipeline([rule]).run(ListTable(columns, names, shards))
    order = np.argsort(columns["other"])  # NaN last
    assert [name in done.selection for name in names] == [row in order[:20] for row in range(200)]
    assert rule.reason.startswith("other among the smallest 0.1 ")
    assert done.report.stages[0].cuts == (pytest.approx(columns["other"][order[19]]),)


def test_a_strict_threshold_leaves_out_both_bounds() -> None:
    table = ListTable({"score": np.array([0.0, 1.0, 2.0, 3.0, np.nan])}, list("abcde"))

    def kept(**bounds: float | bool) -> str:
        found = CurationPipeline([ScoreThreshold(column="score", **bounds)]).run(table).selection  # type: ignore[arg-type]
        return "".join(name for name in "abcde" if name in found)

    assert kept(minimum=1, maximum=2) == "bc"
    assert kept(minimum=0, maximum=2, strict=True) == "b"
    assert kept(minimum=1, strict=True) == "cd"
    assert kept(maximum=2, strict=True) == "ab"
