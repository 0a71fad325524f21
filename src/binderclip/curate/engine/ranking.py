"""Rank samples by score within groups, over a pool that is seen piece by piece: who are the best n of each?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from binderclip.curate.engine.keys import KEY, Keys, key_order
from binderclip.curate.engine.shard import Shard


@dataclass(frozen=True)
class RankCuts:
    """The last sample that is kept of each group.

    Attributes:
        groups: (G,) sorted numbers of the groups.
        scores, keys: (G,) of the last sample kept; +infinity where none is.
    """

    groups: Int[np.ndarray, "G"]
    scores: Float[np.ndarray, "G"]
    keys: Keys

    def keeps(
        self, scores: Float[np.ndarray, "n"], keys: Keys, groups: Int[np.ndarray, "n"] | None = None
    ) -> Bool[np.ndarray, "n"]:
        """Whether samples come before the cut of their group: a larger score, or an equal one and no larger key.

        A sample whose score is NaN never does.
        """
        if not len(self.groups):
            return np.zeros(len(keys), bool)
        groups = np.zeros(len(keys), np.int64) if groups is None else groups
        place = np.minimum(np.searchsorted(self.groups, groups), len(self.groups) - 1)
        cut, last = self.scores[place], self.keys[place]
        before = (keys["f0"] < last["f0"]) | ((keys["f0"] == last["f0"]) & (keys["f1"] <= last["f1"]))
        return (self.groups[place] == groups) & ((scores > cut) | ((scores == cut) & before & (cut < np.inf)))


@dataclass(frozen=True)
class Ranked:
    """All samples, by group, then by score from the largest, then by key.

    Attributes:
        groups: (G,) sorted numbers of the groups. starts: (G + 1,) where each begins in `scores` and `keys`.
    """

    groups: Int[np.ndarray, "G"]
    starts: Int[np.ndarray, "_"]
    scores: Float[np.ndarray, "N"]
    keys: Keys
    _found: list[RankCuts] = field(default_factory=list, repr=False, compare=False)

    @property
    def sizes(self) -> Int[np.ndarray, "G"]:
        """Samples of each group."""
        return np.diff(self.starts)

    def cuts(self, counts: Callable[[Int[np.ndarray, "G"]], Int[np.ndarray, "G"]]) -> RankCuts:
        """`best` of the counts that a function of `sizes` gives, found once: a rule asks for it in every shard.

        Args:
            counts: sizes of the groups -> samples kept of each; of later calls the first one's cuts are given.
        """
        if not self._found:
            self._found.append(self.best(counts(self.sizes)))
        return self._found[0]

    def settled(self, counts: Callable[[Int[np.ndarray, "G"]], Int[np.ndarray, "G"]]) -> Ranked:
        """Sizes and cuts alone, without the samples between them: what is left to be known once counts are decided.

        Args:
            counts: as of `cuts`.
        """
        return Ranked(self.groups, self.starts, np.empty(0), np.empty(0, KEY), [self.cuts(counts)])

    def best(self, counts: Int[np.ndarray, "G"]) -> RankCuts:
        """The cuts that keep `counts` samples of each group, or all where it has fewer."""
        counts = np.minimum(counts, self.sizes)
        scores, keys = np.full(len(self.groups), np.inf), np.zeros(len(self.groups), KEY)
        some = counts > 0
        last = (self.starts[:-1] + counts - 1)[some]
        scores[some], keys[some] = self.scores[last], self.keys[last]
        return RankCuts(self.groups, scores, keys)


class RankingStatistic:
    """Collects score and key, and the group where there are groups; a NaN score counts as the smallest.

    What is collected is 32 bytes a sample; sorting it needs as much again and more for a moment.

    Args:
        score: shard -> (n,) scores.
        group: shard -> (n,) whole numbers; None for one group.
    """

    def __init__(
        self,
        score: Callable[[Shard], Float[np.ndarray, "n"]],
        group: Callable[[Shard], Int[np.ndarray, "n"]] | None = None,
    ) -> None:
        self.score, self.group = score, group
        self._parts: list[tuple[np.ndarray, np.ndarray, Keys]] = []

    def update(self, shard: Shard) -> None:
        """See `PoolStatistic`."""
        scores = self.score(shard)
        groups = np.zeros(len(shard), np.int64) if self.group is None else self.group(shard)
        self._parts.append((groups, np.where(np.isnan(scores), -np.inf, scores), shard.keys))

    def merge(self, other: RankingStatistic) -> None:
        """See `PoolStatistic`."""
        self._parts += other._parts

    def __getstate__(self) -> dict[str, Any]:
        return {"_parts": self._parts}  # what it has seen travels, not how it looks

    def result(self) -> Ranked:
        """See `PoolStatistic`."""
        empty = (np.empty(0, np.int64), np.empty(0), np.empty(0, KEY))
        groups, scores, keys = (np.concatenate(column) for column in zip(empty, *self._parts, strict=True))
        order = key_order(keys, groups, -scores)
        names, first = np.unique(groups[order], return_index=True)
        return Ranked(names, np.append(first, len(order)), scores[order], keys[order])
