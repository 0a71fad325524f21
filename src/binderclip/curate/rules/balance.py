"""Balance a pool over concepts: keep each sample with a probability that its concepts' counts give (p150)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt64

from binderclip.curate.engine.columns import RaggedColumn
from binderclip.curate.engine.rule import HashDraws, KeepRule, PoolStatistic, SampleSignal, Statistics, checked_share
from binderclip.curate.engine.shard import Shard
from binderclip.curate.signals.substrings import SubstringMatcher
from binderclip.display import number_of
from binderclip.errors import UsageError

_UNIT = 2.0**32  # sums of probabilities are whole multiples of 2^-32, so that their order does not matter


def entry_numbers(shard: Shard, column: str) -> RaggedColumn:
    """A column of entry numbers.

    Raises:
        UsageError: it holds something else.
    """
    values = shard.columns[column]
    if not isinstance(values, RaggedColumn):
        raise UsageError(f"column {column!r} does not hold numbers of entries, any number a sample")
    return values


class EntryCount:
    """How many texts name each entry, over the whole pool.

    Args:
        column: of entry numbers.
        entries: number of entries.
    """

    def __init__(self, column: str, entries: int) -> None:
        self.column = column
        self.counts: UInt64[np.ndarray, "C"] = np.zeros(entries, np.uint64)

    def update(self, shard: Shard) -> None:
        """See `PoolStatistic`."""
        values = entry_numbers(shard, self.column).values
        self.counts += np.bincount(values, minlength=len(self.counts)).astype(np.uint64)

    def __getstate__(self) -> dict[str, Any]:
        return {"counts": self.counts}

    def merge(self, other: EntryCount) -> None:
        """See `PoolStatistic`."""
        self.counts += other.counts

    def result(self) -> UInt64[np.ndarray, "C"]:
        """See `PoolStatistic`."""
        return self.counts


class MatchedEntries:
    """The matched entries of all samples, for everything that needs them at once; 4 bytes a match in memory."""

    def __init__(self, column: str) -> None:
        self.column = column
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []

    def update(self, shard: Shard) -> None:
        """See `PoolStatistic`."""
        entries = entry_numbers(shard, self.column)
        self._parts.append((entries.values.astype(np.int32), np.diff(entries.offsets)))

    def __getstate__(self) -> dict[str, Any]:
        return {"_parts": self._parts}  # what it has seen travels, not what is made of it

    def merge(self, other: MatchedEntries) -> None:
        """See `PoolStatistic`."""
        self._parts += other._parts

    def result(self) -> RaggedColumn:
        """See `PoolStatistic`; the order of samples is that of the shards."""
        values = [values for values, _ in self._parts]
        lengths = [lengths for _, lengths in self._parts]
        offsets = np.concatenate([[0], *lengths]).cumsum().astype(np.int64)
        return RaggedColumn(np.concatenate([np.empty(0, np.int32), *values]), offsets)


@dataclass(frozen=True)
class ConceptBalance:
    """What a balancer decided: the threshold t, samples that name an entry, and how many are kept on average."""

    t: float
    matched: int
    expected: float


class _BalanceStatistic(MatchedEntries):
    """Finds t once the matched entries of all samples are there, by a function of counts and matches."""

    def __init__(self, column: str, counts: np.ndarray, threshold: Callable[[np.ndarray, RaggedColumn], float]) -> None:
        super().__init__(column)
        self.counts, self.threshold = counts, threshold

    def result(self) -> ConceptBalance:  # type: ignore[override]  # of the matches only this is kept
        """See `PoolStatistic`."""
        matches = super().result()
        t = self.threshold(self.counts, matches)
        matched = int((np.diff(matches.offsets) > 0).sum())
        return ConceptBalance(t, matched, expected_size(matches, entry_probabilities(self.counts, t)))


def keep_probabilities(matches: RaggedColumn, probabilities: Float[np.ndarray, "C"]) -> Float[np.ndarray, "n"]:
    """P(keep j) = 1 - prod over the entries i of j of (1 - p_i); 0 without any."""
    product = np.ones(len(matches))
    np.multiply.at(product, matches.owner, 1 - probabilities[matches.values])
    return 1 - product


def entry_probabilities(counts: Int[np.ndarray, "C"] | UInt64[np.ndarray, "C"], t: float) -> Float[np.ndarray, "C"]:
    """p_i = min(1, t / count_i), 1 for entries that nothing names."""
    return t / np.maximum(counts.astype(np.float64), max(t, 1e-300))


def tail_threshold(counts: Int[np.ndarray, "C"] | UInt64[np.ndarray, "C"], tail: float) -> int:
    """The t at which the entries rarer than t hold about the share `tail` of all counts, as the released code finds it.

    Args:
        counts: of every entry; those that nothing names do not take part, as they have no share.
        tail: 0.06 is about that of OpenAI's 20,000 in 400 million pairs.

    Returns:
        The count of an entry that something names; 0 where there is none.
    """
    ordered = np.sort(counts[counts > 0])
    if not len(ordered):
        return 0
    portion = np.cumsum(ordered) / int(ordered.sum())
    return int(ordered[np.abs(portion - tail).argmin()])


def expected_size(matches: RaggedColumn, probabilities: Float[np.ndarray, "C"]) -> float:
    """Sum of the keep probabilities; the same number whatever the order of the samples."""
    return int(np.rint(keep_probabilities(matches, probabilities) * _UNIT).astype(np.int64).sum()) / _UNIT


@dataclass(frozen=True, kw_only=True)
class BernoulliAny(KeepRule):
    """Keep a sample if any of its entries passes a draw of its own: entry i with probability `probabilities[i]`.

    A draw is a hash of (seed, key, entry), and of how often the entry stood in the captions before. Samples without
    entries are dropped.

    Args:
        entries: column of entry numbers (a `RaggedColumn`).
        probabilities: (C,) of every entry.

    Raises:
        UsageError: a probability outside [0, 1].
    """

    entries: str = "entries"
    probabilities: Sequence[float] | np.ndarray = ()

    def __post_init__(self) -> None:
        p = np.asarray(self.probabilities, np.float64)
        if not ((p >= 0) & (p <= 1)).all():
            raise UsageError("probabilities lie between 0 and 1")

    @property
    def needs(self) -> tuple[str, ...]:
        """See `KeepRule`."""
        return (self.entries,)

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return "any of its entries drawn"

    def _probabilities(self, statistics: Statistics) -> Float[np.ndarray, "C"]:
        return np.asarray(self.probabilities, np.float64)

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        matches, p = entry_numbers(shard, self.entries), self._probabilities(statistics)
        if len(matches.values) and int(matches.values.max()) >= len(p):
            raise UsageError(f"entry {int(matches.values.max())} has no probability; there are {len(p)}")
        words = matches.values + (_repeats(matches) << 40)
        passed = draws(shard.keys[matches.owner], words) < p[matches.values]  # (m,)
        return np.bincount(matches.owner, passed, minlength=len(shard)) > 0


def _repeats(matches: RaggedColumn) -> Int[np.ndarray, "m"]:
    """How often the entry stood before in the same sample, as where two of its captions name it."""
    order = np.lexsort((np.arange(len(matches.values)), matches.values, matches.owner))
    owner, value = matches.owner[order], matches.values[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (owner[1:] != owner[:-1]) | (value[1:] != value[:-1])
    place = np.arange(len(order))
    out = np.empty(len(order), np.int64)
    out[order] = place - np.maximum.accumulate(np.where(fresh, place, 0))
    return out


@dataclass(frozen=True, kw_only=True)
class MetadataBalancer(KeepRule):
    """Balance a pool over a list of concepts: cap how many pairs a concept gives, keep all of rare ones (MetaCLIP).

    Of "Demystifying CLIP Data" (arXiv 2309.16671): captions are matched with the concepts as substrings
    (`SubstringMatcher`), count_i texts name concept i, p_i = min(1, t / count_i), and a pair is kept if any of its
    concepts passes a draw with p_i: P(keep j) = 1 - prod_i (1 - p_i). Pairs that name no concept are dropped. It is the
    last stage: filters and deduplication after it would undo the counts. A concept can keep more than t pairs, since
    others bring it along.

    Args:
        concepts: the list, such as `build_metadata` makes; or a matcher with settings of its own.
        t: pairs a concept keeps on its own; 20,000 for 400 million pairs of 1.6 billion, 170,000 for a billion.
        tail: instead of t, the share of all matches that stays untouched (`tail_threshold`).
        target: instead of t, the expected number of pairs kept; the smallest whole t that reaches it is found by
            bisection.
        lower: ignore case in matching.

    Raises:
        UsageError: not exactly one of t, tail and target, or values out of range; in a run, a target that is more than
            the pairs that name a concept.

    Examples:
        >>> from binderclip.curate import CurationPipeline, MetadataBalancer, open_table
        >>> rule = MetadataBalancer(concepts=["face", "hand", "moon"], t=5)
        >>> report = CurationPipeline([rule]).run(open_table("noto-emoji", "val")).report
        >>> report.stages[0].figures["matched"] >= report.kept
        True
    """

    concepts: Sequence[str] | SubstringMatcher
    t: float | None = None
    tail: float | None = None
    target: int | None = None
    lower: bool = False

    def __post_init__(self) -> None:
        if sum(value is not None for value in (self.t, self.tail, self.target)) != 1:
            raise UsageError("a balancer needs one of t, tail and target")
        if self.tail is not None:
            checked_share(self.tail, "tail")
        least = self.t if self.t is not None else self.target if self.target is not None else 0
        if not 0 <= least < np.inf:
            raise UsageError(f"t and target are finite and 0 or more, got {least}")
        if not isinstance(self.concepts, SubstringMatcher):
            object.__setattr__(self, "concepts", SubstringMatcher(self.concepts, lower=self.lower))

    @property
    def matcher(self) -> SubstringMatcher:
        """What finds the concepts in a text."""
        assert isinstance(self.concepts, SubstringMatcher)
        return self.concepts

    @property
    def needs(self) -> tuple[str, ...]:
        """See `KeepRule`."""
        return (self.matcher.name,)

    @property
    def signals(self) -> tuple[SampleSignal, ...]:
        """See `KeepRule`."""
        return (self.matcher,)

    @property
    def reason(self) -> str:
        """See `KeepRule`."""
        return f"drawn for any of {number_of(len(self.matcher), 'concept')}"

    def statistics(self, draws: HashDraws) -> Mapping[str, Callable[[Statistics], PoolStatistic]]:
        """See `KeepRule`."""
        name = self.matcher.name
        return {
            "counts": lambda _: EntryCount(name, len(self.matcher)),
            "balance": lambda statistics: _BalanceStatistic(name, statistics["counts"], self._threshold),
        }

    def _threshold(self, counts: UInt64[np.ndarray, "C"], matches: RaggedColumn) -> float:
        if self.t is not None:
            return float(self.t)
        if self.tail is not None:
            return float(tail_threshold(counts, self.tail))
        assert self.target is not None
        matched = int((np.diff(matches.offsets) > 0).sum())
        if self.target > matched:
            raise UsageError(
                f"target {self.target} is more than the {number_of(matched, 'sample')} that name a concept"
            )
        low, high = 0, int(counts.max(initial=0))  # E(low) < target <= E(high)
        while high - low > 1:
            middle = (low + high) // 2
            reached = expected_size(matches, entry_probabilities(counts, middle)) >= self.target
            low, high = (low, middle) if reached else (middle, high)
        return float(high if self.target else 0)

    def keep(self, shard: Shard, statistics: Statistics, draws: HashDraws) -> Bool[np.ndarray, "n"]:
        """See `KeepRule`."""
        p = entry_probabilities(statistics["counts"], statistics["balance"].t)
        return BernoulliAny(entries=self.matcher.name, probabilities=p).keep(shard, statistics, draws)

    def figures(self, statistics: Statistics) -> dict[str, Any]:
        """See `KeepRule`: t, and what the head and the tail of the concepts are."""
        counts, balance = statistics["counts"], statistics["balance"]
        t = balance.t
        total = max(int(counts.sum()), 1)
        return {
            "t": t,
            "concepts": len(counts),
            "concepts that nothing names": int((counts == 0).sum()),
            "concepts above t": int((counts > t).sum()),
            "share of matches below t": float(counts[counts < t].sum() / total),
            "matched": balance.matched,
            "expected": balance.expected,
        }
