"""What a signal, a statistic and a rule are: the three things that curation is composed of.

A signal computes a column. A statistic looks at every sample of a pool once, piece by piece, in any order. A rule says
which samples are kept, of each by itself or by what its statistics found.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from binderclip.curate.engine.columns import ColumnValues, numbers, take_rows
from binderclip.curate.engine.keys import Keys, hash_uniform
from binderclip.curate.engine.shard import Shard
from binderclip.curate.engine.store import ColumnStore
from binderclip.errors import UsageError
from binderclip.settings import hint


@runtime_checkable
class SampleSignal(Protocol):
    """A column that is computed for a shard."""

    @property
    def name(self) -> str:
        """Of the column."""
        ...

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that must be there before."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever the values would: settings, fingerprint of a model; "" for what is too cheap to be kept."""
        ...

    def __call__(self, shard: Shard) -> ColumnValues:
        """The column, one value a sample; NaN or None where there is none."""
        ...


@runtime_checkable
class PoolStatistic(Protocol):
    """What is found out over a pool in one pass: equal for every cut into shards and every order of them.

    With a runner each shard is looked at by a worker, and what it has seen travels; one with an attribute `holds_rows`
    that is true keeps rows of embeddings, and looks at all shards in the process that decides.
    """

    def update(self, shard: Shard) -> None:
        """Look at some more samples."""
        ...

    def merge(self, other: Any) -> None:
        """Add what another statistic of the same kind has seen."""
        ...

    def result(self) -> Any:
        """What `keep` is given."""
        ...


Statistics: TypeAlias = Mapping[str, Any]
"""Name of a statistic -> its result."""


@dataclass(frozen=True)
class HashDraws:
    """The random numbers of one rule: `draws(keys, entries)` is `hash_uniform` for its place in the pipeline.

    Attributes:
        seed: of the run, 0 to 2^64 - 1.
        purpose: 0 to 2^64 - 1; of a stage its number, of parts a hash of the way to them.
    """

    seed: int
    purpose: int = 0

    def __call__(self, keys: Keys, entries: Int[np.ndarray, "n"] | None = None) -> Float[np.ndarray, "n"]:
        """A number in [0, 1) for each key, and entry where they are given."""
        return hash_uniform(self.seed, keys, entries, purpose=self.purpose)

    def part(self, number: int) -> HashDraws:
        """Independent numbers for a rule inside a rule, or for one of a rule's statistics."""
        path = f"{self.purpose}/{number}".encode()  # its hash is no stage's number, and no other path's
        return HashDraws(self.seed, int.from_bytes(hashlib.blake2b(path, digest_size=8).digest(), "big"))


class KeepRule(abc.ABC):
    """Says which samples are kept. A rule is a keyword-only dataclass that extends this.

    Attributes:
        column: the column that decides, for histograms; "" where it is not one number a sample.
    """

    column: str = ""

    @property
    def needs(self) -> tuple[str, ...]:
        """Columns that the rule and its statistics read."""
        return (self.column,) if self.column else ()

    @property
    def signals(self) -> tuple[SampleSignal, ...]:
        """Signals that the rule brings with it, because they depend on its settings."""
        return ()

    @property
    @abc.abstractmethod
    def reason(self) -> str:
        """The condition in a few words: what a dropped sample does not meet."""

    def statistics(self, draws: HashDraws) -> Mapping[str, Callable[[Statistics], PoolStatistic]]:
        """What must be known before: name -> makes the statistic of one pass, given the results of those before it."""
        return {}

    @abc.abstractmethod
    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """Which samples of a shard are kept."""

    def settled(self, statistics: Statistics) -> Statistics:
        """Of what was found, what `keep`, `cuts` and `figures` ask for; it is held, and sent to workers, meanwhile."""
        return statistics

    def cuts(self, statistics: Statistics) -> tuple[float, ...]:
        """Values of `column` at which the decision changes, for the report."""
        return ()

    def figures(self, statistics: Statistics) -> dict[str, Any]:
        """Further figures for the report: name -> plain value."""
        return {}


def score_of(shard: Shard, column: str) -> Float[np.ndarray, "n"]:
    """A column of the shard as float64, NaN where there is no value.

    Raises:
        UsageError: it is not one number a sample.
    """
    return numbers(shard.columns[column], column)


def checked_share(value: float, name: str) -> float:
    """A share in [0, 1].

    Raises:
        UsageError: it is not one.
    """
    if not 0 <= value <= 1:
        raise UsageError(f"{name} is {value}; it is a share between 0 and 1")
    return value


def count_of_share(share: float, sizes: Int[np.ndarray, "k"]) -> Int[np.ndarray, "k"]:
    """floor(share * size), of the share as it is written: 0.29 of 100 are 29, though 0.29 * 100 is 28.999..."""
    return np.floor(sizes * share + 1e-9).astype(np.int64)


def computed_columns(shard: Shard, names: Iterable[str], signals: Mapping[str, SampleSignal]) -> set[str]:
    """Columns of which `fill_column` would ask a signal, because neither the data nor their late files have them."""
    computed: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in signals and name not in computed and name not in shard.columns and name not in shard.late:
            computed.add(name)
            left += signals[name].needs
    return computed


def reads_text(names: Iterable[str], signals: Mapping[str, SampleSignal]) -> bool:
    """Whether columns, or those that they are computed of, are or hold the captions.

    Args:
        wanted: what rules need.
        signals: by the column that each computes.
    """
    left, seen = list(names), set[str]()
    while left:
        name = left.pop()
        if name in ("text", "texts"):
            return True
        if name in signals and name not in seen:
            seen.add(name)
            left += signals[name].needs
    return False


def fill_column(shard: Shard, name: str, signals: Mapping[str, SampleSignal], store: ColumnStore) -> None:
    """See to it that a shard has a column: it has it, or a signal computes it, and first what that needs.

    Raises:
        UsageError: neither the data nor a signal has it.
    """
    if shard.column(name) is not None:
        return
    signal = signals.get(name)
    if signal is None:
        there = [*shard.columns, *shard.late, *signals]
        raise UsageError(f"there is no column {name!r}: {hint(name, there)}")

    def computed() -> ColumnValues:
        for column in signal.needs:
            fill_column(shard, column, signals, store)
        return signal(shard)

    if not signal.version:
        shard.columns[name] = computed()
        return
    for stamp, places in shard.wider_cuts():
        column_values = store.find(name, f"{stamp}|{signal.version}", lasting=shard.lasting)
        if column_values is not None:
            shard.columns[name] = take_rows(column_values[name], places)
            return
    stamp = f"{shard.stamp}|{signal.version}"
    shard.columns[name] = store.fetch(name, stamp, lambda: {name: computed()}, lasting=shard.lasting)[name]
