"""Ranks in groups, against sorting each group by itself; cuts that are found once."""

from __future__ import annotations

import numpy as np

from binderclip.curate import Shard, keys_of
from binderclip.curate.engine.ranking import Ranked, RankingStatistic


def ranked(n: int = 400, parts: int = 3) -> tuple[Ranked, Shard]:
    rng = np.random.default_rng(0)
    columns = {"score": rng.integers(0, 9, n) / 9, "group": rng.integers(0, 20, n)}
    whole = Shard("", keys_of([f"sample {i}" for i in range(n)]), dict(columns))
    statistics = [RankingStatistic(lambda s: s.columns["score"], lambda s: s.columns["group"]) for _ in range(parts)]
    for statistic, rows in zip(statistics, np.array_split(rng.permutation(n), parts), strict=True):
        statistic.update(whole.take(np.sort(rows)))
    for other in statistics[1:]:
        statistics[0].merge(other)
    return statistics[0].result(), whole


def test_the_best_of_each_group_are_kept() -> None:
    found, whole = ranked()
    keep = found.cuts(lambda sizes: np.minimum(sizes, 4)).keeps(
        whole.columns["score"], whole.keys, whole.columns["group"]
    )
    for group in range(20):
        rows = np.flatnonzero(whole.columns["group"] == group)
        order = sorted(rows.tolist(), key=lambda r: (-whole.columns["score"][r], *whole.keys[r].tolist()))
        assert set(np.flatnonzero(keep & (whole.columns["group"] == group)).tolist()) == set(order[:4])


def test_cuts_are_found_once_for_all_shards() -> None:
    found, _ = ranked()
    calls = []

    def counts(sizes: np.ndarray) -> np.ndarray:
        calls.append(len(sizes))
        return np.minimum(sizes, 2)

    first = found.cuts(counts)
    assert found.cuts(counts) is first
    assert calls == [len(found.groups)]
    other, _ = ranked()
    assert len(other.cuts(lambda sizes: 0 * sizes).groups) == len(first.groups)  # another pool has its own
