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


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("bound", [0.1, 0.28, 0.3, 0.7, 4.5, 1e300])
def test_a_bound_is_compared_in_the_precision_of_the_scores(dtype: type, bound: float) -> None:
    """As NumPy compares an array with a Python number, which is what DataComp's script does."""
    with np.errstate(over="ignore"):
        near = np.array([bound], dtype=dtype)
        scores = np.concatenate([near, np.nextafter(near, dtype(0)), np.nextafter(near, dtype(np.inf)), [dtype(0.5)]])
    scores = scores.astype(dtype)
    table = ListTable({"score": scores}, list("abcd"))
    with np.errstate(over="ignore"):
        expected = {
            ("minimum", False): scores >= dtype(bound), ("maximum", False): scores <= dtype(bound),
            ("minimum", True): scores > dtype(bound), ("maximum", True): scores < dtype(bound),
        }  # fmt: skip
    for (side, strict), kept in expected.items():
        rule = ScoreThreshold(column="score", strict=strict, **{side: bound})  # type: ignore[arg-type]
        found = CurationPipeline([rule]).run(table).selection
        assert [name in found for name in "abcd"] == kept.tolist(), (side, strict)


def test_bounds_of_whole_numbers_are_not_rounded_to_whole_numbers() -> None:
    table = ListTable({"words": np.array([2, 3])}, list("ab"))
    found = CurationPipeline([ScoreThreshold(column="words", minimum=2.5)]).run(table).selection
    assert ["a" in found, "b" in found] == [False, True]
