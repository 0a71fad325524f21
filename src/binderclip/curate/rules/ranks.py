"""The best fraction of a pool by the mean of several ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float, Int

from binderclip.curate.engine.ranking import RankingStatistic
from binderclip.curate.engine.rule import (
    HashDraws,
    KeepRule,
    PoolStatistic,
    Statistics,
    checked_share,
    count_of_share,
    score_of,
)
from binderclip.curate.engine.shard import Shard
from binderclip.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class MeanRankTopFraction(KeepRule):
    """Keep the `fraction` of samples whose mean rank in several scores is best; equal scores share their mean rank.

    Two scores that fail on different samples correct each other, such as those after text was taken out of the caption
    and out of the picture.

    Args:
        columns: of the scores, larger is better; a sample without one of them is dropped.
        fraction: 0 to 1, of the samples that reach the rule.

    Raises:
        UsageError: fewer than two columns, or a fraction outside [0, 1].
    """

    columns: tuple[str, ...] | list[str]
    fraction: float

    def __post_init__(self) -> None:
        checked_share(self.fraction, "fraction")
        if isinstance(self.columns, str) or len(self.columns) < 2:
            raise UsageError(f"columns are two scores or more, got {self.columns!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        """See `KeepRule`."""
        return tuple(self.columns)

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return f"mean rank in {', '.join(self.columns)} among the top {self.fraction:.4g} of the pool"

    def _score(self, statistics: Statistics, shard: Shard) -> Float[np.ndarray, "n"]:
        ranks = np.zeros(len(shard))
        for column in self.columns:
            ordered, values = -statistics[f"rank {column}"].scores, -score_of(shard, column)
            first, last = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
            ranks += np.where(np.isnan(values), np.nan, (first + last) / 2)
        return -ranks

    def statistics(self, draws: HashDraws) -> Mapping[str, Callable[[Statistics], PoolStatistic]]:
        """See `KeepRule`."""

        def of(column: str, statistics: Statistics) -> PoolStatistic:
            return RankingStatistic(lambda shard: score_of(shard, column))

        each = {f"rank {column}": partial(of, column) for column in self.columns}
        return {**each, "ranking": lambda statistics: RankingStatistic(partial(self._score, statistics))}

    def settled(self, statistics: Statistics) -> Statistics:
        """See `KeepRule`."""
        return {**statistics, "ranking": statistics["ranking"].settled(self._count)}

    def _count(self, sizes: Int[np.ndarray, "G"]) -> Int[np.ndarray, "G"]:
        return count_of_share(self.fraction, sizes)

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        cut = statistics["ranking"].cuts(self._count)
        return cut.keeps(self._score(statistics, shard), shard.keys)
