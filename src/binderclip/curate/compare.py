"""Two filters on one pool: what both keep, what each keeps alone, and samples of either kind."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from binderclip.curate.engine.keys import Keys, key_order
from binderclip.curate.engine.rule import KeepRule, SampleSignal
from binderclip.curate.engine.shard import SampleTable, Shard
from binderclip.curate.pipeline import Curated, CurationPipeline
from binderclip.errors import UsageError

__all__ = ["FilterComparison", "SwappedSample", "compare_filters"]

Stages = Sequence["KeepRule | tuple[str, KeepRule]"]


@dataclass(frozen=True)
class SwappedSample:
    """A sample that one of two filters keeps and the other drops.

    Attributes:
        name, text: of the sample; empty where the data have none.
        values: column -> value of the numbers that stages of either filter decide by and the data hold.
    """

    name: str
    text: str
    values: dict[str, float]


@dataclass(frozen=True)
class FilterComparison:
    """What two filters make of one pool.

    Attributes:
        pool: samples of it.
        first, second: samples that each keeps.
        both: samples that both keep.
        only_first, only_second: some of those that one of them keeps alone, in an order that does not depend on the
            data's.
    """

    pool: int
    first: int
    second: int
    both: int
    only_first: list[SwappedSample]
    only_second: list[SwappedSample]

    @property
    def overlap(self) -> float:
        """Samples that both keep over those that either keeps (Jaccard); 1 where neither keeps any."""
        either = self.first + self.second - self.both
        return self.both / either if either else 1.0

    @property
    def swaps(self) -> tuple[int, int]:
        """Samples that the first keeps alone, and that the second keeps alone."""
        return self.first - self.both, self.second - self.both

    def rows(self) -> list[tuple[str, int, float]]:
        """(which, samples, share of the pool) for a table."""
        counts = {
            "first": self.first, "second": self.second, "both": self.both, "only first": self.swaps[0],
            "only second": self.swaps[1],
        }  # fmt: skip
        return [(which, count, count / max(self.pool, 1)) for which, count in counts.items()]


def compare_filters(
    pool: SampleTable,
    first: Stages,
    second: Stages,
    *,
    signals: Mapping[str, SampleSignal] | None = None,
    examples: int = 20,
    seed: int = 0,
    **settings: Any,
) -> FilterComparison:
    """Run two filters over one pool and hold what they keep against each other.

    Args:
        pool: the samples, as `open_table` gives them.
        first, second: stages of two pipelines, such as `[ScoreTopFraction(column="clip_score", fraction=0.4)]` and the
            same by `masked_clip_score`.
        signals: for columns that the data do not have, as in `CurationPipeline`.
        examples: samples that are named of those that one filter keeps alone.
        seed: of both.
        settings: further ones of `CurationPipeline.run`, such as `store`, in which both find each other's columns.

    Raises:
        UsageError: a negative number of examples, or as `CurationPipeline`.

    Paper: Devil in the Number: Towards Robust Multi-modality Data Filter (arXiv 2309.13770).

    Examples:
        >>> from binderclip.curate import ScoreThreshold, compare_filters, open_table
        >>> short, long = ([ScoreThreshold(column="words", minimum=n)] for n in (2, 3))
        >>> found = compare_filters(open_table("noto-emoji", "val"), short, long)
        >>> found.second == found.both, len(found.only_second)
        (True, 0)
    """
    if examples < 0:
        raise UsageError(f"examples is {examples}; it is 0 or more")
    done = [
        CurationPipeline(stages, signals).run(pool, seed=seed, **{**settings, "scores": True})
        for stages in (first, second)
    ]
    one, other = (curated.selection for curated in done)
    lacking: list[list[tuple[tuple[int, int], SwappedSample]]] = [[], []]
    for id in pool.ids if examples else ():
        shard = pool.load(id)
        kept = [selection.mask(shard.keys) for selection in (one, other)]
        for side, rows in enumerate((kept[0] & ~kept[1], kept[1] & ~kept[0])):
            examples_of = _named(shard, np.flatnonzero(rows), done, id, examples)
            lacking[side] = heapq.nsmallest(examples, [*lacking[side], *examples_of], key=lambda entry: entry[0])
    swapped = [[sample for _, sample in entries] for entries in lacking]
    return FilterComparison(done[0].report.entered, len(one), len(other), len(one & other), *swapped)


def _named(
    shard: Shard, rows: np.ndarray, done: Sequence[Curated], id: str, count: int
) -> list[tuple[tuple[int, int], SwappedSample]]:
    """The samples of a shard with the smallest keys, by their keys."""
    keys: Keys = shard.keys[rows]
    first = key_order(keys, np.zeros(len(keys)))[:count]
    columns: dict[str, np.ndarray] = {}
    for curated in done:
        for name, values in curated.scores.get(id, {}).items():
            # a sample that one filter dropped before this stage may have reached it in the other
            columns[name] = np.where(np.isnan(values), columns[name], values) if name in columns else values
    names, texts = (shard.column(name) for name in ("name", "text"))
    named = []
    for place in first.tolist():
        row = int(rows[place])
        held = {name: float(values[row]) for name, values in columns.items() if not np.isnan(values[row])}
        mark = (int(keys[place]["f0"]), int(keys[place]["f1"]))
        named.append((mark, SwappedSample(_text(names, row), _text(texts, row), held)))
    return named


def _text(column: Any, row: int) -> str:
    return "" if column is None or column[row] is None else str(column[row])
