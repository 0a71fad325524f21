"""The criterion of the segmentation studies: an interval over scenes, with the scenes counted."""

from __future__ import annotations

from binderclip.studies import Check, Criterion, Row, Table
from binderclip.studies.protocols.tables.segment_table import SETS, scene_gain


def table(mean: float, half: float, seeds: int) -> Table:
    return Table(
        Row(metric, "a - b", value, name, seed)
        for seed in range(seeds)
        for name in SETS
        for metric, value in (("gain", mean), ("gain, half its interval", half))
    )


def judged(found: Table, scenes: int, margin: float = 0.0) -> Check:
    return Criterion.estimated("a above b", scene_gain("a", "b", scenes), margin=margin).check(found)


def test_the_interval_shrinks_with_the_root_of_sets_and_seeds() -> None:
    # k independent means with half interval h: the half interval of their mean is h / sqrt(k)
    check = judged(table(0.02, 0.04, 3), 20)
    k = 3 * len(SETS)
    assert check.low is not None
    assert abs(check.low - (0.02 - 0.04 / k**0.5)) < 1e-12
    assert (check.n, check.how) == (20 * k, "paired bootstrap over scenes")
    assert check.outcome == "seen"


def test_too_few_scenes_never_meet_it_and_a_margin_counts() -> None:
    assert judged(table(0.02, 0.01, 3), 12).outcome == "open"
    assert judged(table(-0.005, 0.01, 3), 20).outcome == "opposite"
    assert judged(table(-0.005, 0.01, 3), 20, margin=-0.01).seen
