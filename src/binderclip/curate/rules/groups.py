"""Rules on groups: at most so many of each, one of each, members of a list of values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from binderclip.curate.engine.columns import in_precision
from binderclip.curate.engine.ranking import RankingStatistic
from binderclip.curate.engine.rule import HashDraws, KeepRule, PoolStatistic, Statistics, score_of
from binderclip.curate.engine.shard import Shard
from binderclip.curate.signals.plain import group_of
from binderclip.errors import UsageError


def single_values(shard: Shard, column: str) -> np.ndarray | list[Any]:
    """A column of one number or text a sample, None where there is none.

    Raises:
        UsageError: a column of features or of several values a sample.
    """
    values = shard.columns[column]
    if isinstance(values, np.ndarray) and values.ndim == 1:
        return values
    if isinstance(values, list) and not any(isinstance(value, (list, tuple, dict)) for value in values):
        return values
    raise UsageError(f"column {column!r} has several values a sample, where one is needed")


def groups_of(shard: Shard, column: str) -> Int[np.ndarray, "n"]:
    """The group of each sample as a number; texts become a hash of theirs, what has no value a group of its own key.

    Raises:
        UsageError: a column of features or of several values a sample.
    """
    values = single_values(shard, column)
    if isinstance(values, np.ndarray) and values.dtype.kind in "biu":
        return values.astype(np.int64)
    alone = (shard.keys["f1"] >> np.uint64(1)).astype(np.int64)
    there = [value is not None and value == value for value in values]  # NaN is unequal to itself
    named = [
        group_of(str(value)) if known else int(own) for value, known, own in zip(values, there, alone, strict=True)
    ]
    return np.array(named, np.int64)


@dataclass(frozen=True, kw_only=True)
class CapPerGroup(KeepRule):
    """Keep at most `count` samples of each group: those with the best scores, or by the hash of their keys.

    Args:
        group: column of whole numbers or texts; samples of equal value are a group, a sample without one is alone.
        count: most samples of a group, at least 0.
        by: column of the score; "" draws at random.

    Raises:
        UsageError: a count below 0.
    """

    group: str
    count: int
    by: str = ""

    def __post_init__(self) -> None:
        if self.count < 0:
            raise UsageError(f"count is {self.count}; a group keeps 0 samples or more")

    @property
    def needs(self) -> tuple[str, ...]:
        """See `KeepRule`."""
        return (self.group, self.by) if self.by else (self.group,)

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return f"among {self.count} of its {self.group}" + (f" with the best {self.by}" if self.by else "")

    def caps(self, sizes: Int[np.ndarray, "G"]) -> Int[np.ndarray, "G"]:
        """Most samples of each group, given how many it has."""
        return np.full(len(sizes), self.count)

    def _scores(self, shard: Shard, draws: HashDraws) -> np.ndarray:
        if not self.by:
            return draws(shard.keys)
        scores = score_of(shard, self.by)
        return np.where(np.isnan(scores), -np.inf, scores)

    def statistics(self, draws: HashDraws) -> Mapping[str, Callable[[Statistics], PoolStatistic]]:
        """See `KeepRule`."""
        return {
            "groups": lambda _: RankingStatistic(
                lambda shard: self._scores(shard, draws), lambda shard: groups_of(shard, self.group)
            )
        }

    def settled(self, statistics: Statistics) -> Statistics:
        """See `KeepRule`."""
        return {"groups": statistics["groups"].settled(self.caps)}

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        cuts = statistics["groups"].cuts(self.caps)
        return cuts.keeps(self._scores(shard, draws), shard.keys, groups_of(shard, self.group))

    def figures(self, statistics: Statistics) -> dict[str, int]:
        """See `KeepRule`."""
        sizes = statistics["groups"].sizes
        capped = int((sizes > self.caps(sizes)).sum())
        return {"groups": len(sizes), "largest": int(sizes.max(initial=0)), "capped": capped}


@dataclass(frozen=True, kw_only=True)
class OnePerGroup(CapPerGroup):
    """Keep one sample of each group, such as one of the pictures that are equal.

    Args:
        group: column of whole numbers or texts.
        by: column of the score of the one that stays; "" draws at random.
    """

    count: int = 1


@dataclass(frozen=True, kw_only=True)
class TailTrimming(CapPerGroup):
    """Cut the rarest groups down to a handful of samples or none, and leave the others as they are.

    The extreme tails of "Generalization Beyond Data Imbalance: A Controlled Study on CLIP for Transferable Insights"
    (arXiv 2405.21070), which asks what a model still knows of classes that it saw once or never.

    Args:
        group: column of classes.
        classes: how many of the rarest are cut; of equally rare ones those with the smaller number (of texts, hash).
        count: samples that each of them keeps, 0 or 1 in the paper.
        by: column of the score of those that stay; "" draws at random.

    Raises:
        UsageError: a negative number.
    """

    classes: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.classes < 0:
            raise UsageError(f"classes is {self.classes}; 0 of the rarest or more are cut")

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return f"not one of the {self.classes} rarest of {self.group}, or {super().reason}"

    def caps(self, sizes: Int[np.ndarray, "G"]) -> Int[np.ndarray, "G"]:
        """See `CapPerGroup`."""
        rank = np.empty(len(sizes), np.int64)
        rank[np.argsort(sizes, kind="stable")] = np.arange(len(sizes))
        return np.where(rank < self.classes, self.count, sizes)


@dataclass(frozen=True, kw_only=True)
class Membership(KeepRule):
    """Keep samples whose value is one of a list, such as `language` in ["en"].

    Args:
        member: column of texts or numbers.
        values: what is kept.
        inverse: keep the others instead.

    Raises:
        UsageError: no value, or a column of several values a sample.
    """

    member: str
    values: tuple[str | int | float, ...] | list[str | int | float]
    inverse: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.values, str) or not self.values or not all(isinstance(v, (str, Real)) for v in self.values):
            raise UsageError(f"values of {self.member!r} are a list of texts or numbers, got {self.values!r}")

    @property
    def needs(self) -> tuple[str, ...]:
        """See `KeepRule`."""
        return (self.member,)

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return f"{self.member} {'not in' if self.inverse else 'in'} {', '.join(map(str, list(self.values)[:5]))}"

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        column = shard.columns[self.member]
        members = {value if isinstance(value, str) else in_precision(value, column) for value in self.values}
        return np.array([(value in members) != self.inverse for value in single_values(shard, self.member)], bool)
