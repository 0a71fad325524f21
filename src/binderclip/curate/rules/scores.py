"""Rules on one score: a threshold, a range, the best fraction of the pool."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from binderclip.curate.engine.columns import in_precision
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
class ScoreThreshold(KeepRule):
    """Keep samples whose score is at least `minimum` or at most `maximum`; those without a score are dropped.

    A bound is rounded to the precision of the scores, so that a float32 score of 0.7 reaches `minimum=0.7`.

    Args:
        column: of the score.
        minimum: smallest value kept; None for no bound.
        maximum: largest value kept; None for no bound.
        strict: leave out samples whose score is a bound itself.

    Raises:
        UsageError: neither bound, or bounds between which nothing lies.
    """

    column: str
    minimum: float | None = None
    maximum: float | None = None
    strict: bool = False

    def __post_init__(self) -> None:
        low, high = self._bounds
        if (self.minimum is None and self.maximum is None) or math.isnan(low) or math.isnan(high) or low > high:
            raise UsageError(
                f"a threshold on {self.column!r} needs minimum, maximum or both, the one not above the other; got "
                f"minimum={self.minimum}, maximum={self.maximum}"
            )

    @property
    def _bounds(self) -> tuple[float, float]:
        low = -math.inf if self.minimum is None else self.minimum
        return low, math.inf if self.maximum is None else self.maximum

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        more, less = (">", "<") if self.strict else (">=", "<=")
        parts = [] if self.minimum is None else [f"{self.column} {more} {self.minimum:g}"]
        return " and ".join(parts + ([] if self.maximum is None else [f"{self.column} {less} {self.maximum:g}"]))

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        values, column = score_of(shard, self.column), shard.columns[self.column]
        low, high = (in_precision(bound, column) for bound in self._bounds)
        return (values > low) & (values < high) if self.strict else (values >= low) & (values <= high)

    def cuts(self, statistics: Statistics) -> tuple[float, ...]:
        """See `KeepRule`."""
        return tuple(bound for bound in (self.minimum, self.maximum) if bound is not None)


@dataclass(frozen=True, kw_only=True)
class ScoreTopFraction(KeepRule):
    """Keep the `fraction` of samples with the best scores: n = floor(fraction * N) of the N that reach the rule.

    Equal scores are told apart by key, so that exactly n are kept whatever the shards; samples without a score come
    last and are never kept.

    Args:
        column: of the score.
        fraction: 0 to 1, of the samples that reach the rule.
        smallest: keep the smallest scores instead of the largest.

    Raises:
        UsageError: a fraction outside [0, 1].
    """

    column: str
    fraction: float
    smallest: bool = False

    def __post_init__(self) -> None:
        checked_share(self.fraction, "fraction")

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return f"{self.column} among the {'smallest' if self.smallest else 'top'} {self.fraction:.4g} of the pool"

    def _scores(self, shard: Shard) -> np.ndarray:
        values = score_of(shard, self.column)
        return -values if self.smallest else values

    def statistics(self, draws: HashDraws) -> Mapping[str, Callable[[Statistics], PoolStatistic]]:
        """See `KeepRule`."""
        return {"ranking": lambda _: RankingStatistic(self._scores)}

    def settled(self, statistics: Statistics) -> Statistics:
        """See `KeepRule`."""
        return {"ranking": statistics["ranking"].settled(self._count)}

    def _count(self, sizes: Int[np.ndarray, "G"]) -> Int[np.ndarray, "G"]:
        return count_of_share(self.fraction, sizes)

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        return self._cut(statistics).keeps(self._scores(shard), shard.keys)

    def _cut(self, statistics: Statistics) -> Any:
        return statistics["ranking"].cuts(self._count)

    def cuts(self, statistics: Statistics) -> tuple[float, ...]:
        """See `KeepRule`."""
        last = self._cut(statistics).scores
        return tuple(float(-cut if self.smallest else cut) for cut in last if math.isfinite(cut))
