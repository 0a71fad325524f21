"""Rules made of rules: any of several, none of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool

from binderclip.curate.engine.rule import HashDraws, KeepRule, PoolStatistic, SampleSignal, Statistics
from binderclip.curate.engine.shard import Shard
from binderclip.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class AnyOf(KeepRule):
    """Keep samples that any of several rules keeps; each rule sees all samples, and draws numbers of its own.

    Args:
        rules: one or more; rules that must all hold are stages one after the other.

    Raises:
        UsageError: no rule.
    """

    rules: tuple[KeepRule, ...] | list[KeepRule]

    def __post_init__(self) -> None:
        if not self.rules:
            raise UsageError("a rule made of rules needs at least one")

    @property
    def needs(self) -> tuple[str, ...]:
        """See `KeepRule`."""
        return tuple(dict.fromkeys(column for rule in self.rules for column in rule.needs))

    @property
    def signals(self) -> tuple[SampleSignal, ...]:
        """See `KeepRule`."""
        return tuple(signal for rule in self.rules for signal in rule.signals)

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return " or ".join(rule.reason for rule in self.rules)

    def statistics(self, draws: HashDraws) -> Mapping[str, Callable[[Statistics], PoolStatistic]]:
        """See `KeepRule`: those of each rule under its number."""

        def named(number: int, make: Callable[[Statistics], PoolStatistic], statistics: Statistics) -> PoolStatistic:
            return make(_own(statistics, number))

        return {
            f"{number}/{name}": partial(named, number, make)
            for number, rule in enumerate(self.rules)
            for name, make in rule.statistics(draws.part(number)).items()
        }

    def settled(self, statistics: Statistics) -> Statistics:
        """See `KeepRule`."""
        each = [(number, rule.settled(_own(statistics, number))) for number, rule in enumerate(self.rules)]
        return {f"{number}/{name}": value for number, own in each for name, value in own.items()}

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        kept = [rule.keep(shard, _own(statistics, n), draws.part(n)) for n, rule in enumerate(self.rules)]
        return np.logical_or.reduce(kept)


@dataclass(frozen=True, kw_only=True)
class NoneOf(AnyOf):
    """Keep samples that none of several rules keeps.

    Args:
        rules: one or more.
    """

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return f"not ({super().reason})"

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        return ~super().keep(shard, statistics, draws)


def _own(statistics: Statistics, number: int) -> Statistics:
    mark = f"{number}/"
    return {name.removeprefix(mark): value for name, value in statistics.items() if name.startswith(mark)}
