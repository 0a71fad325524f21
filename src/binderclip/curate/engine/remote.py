"""The work on one shard, here or on another machine: columns for the store, statistics, decisions."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int16

from binderclip.curate.engine.keys import KEY, Keys
from binderclip.curate.engine.report import BoundarySample, beside_cuts
from binderclip.curate.engine.rule import (
    HashDraws,
    KeepRule,
    PoolStatistic,
    SampleSignal,
    Statistics,
    fill_column,
    score_of,
)
from binderclip.curate.engine.shard import SampleTable, Shard
from binderclip.curate.engine.store import ColumnStore
from binderclip.errors import DataError, UsageError

KEPT = -1
"""In the place of the number of the stage that dropped a sample."""


def entered(shard: Shard, dropped: Int16[np.ndarray, "n"], stage: int) -> Shard:
    """The samples of a whole shard that enter a stage; `wider` has those that entered the stages before.

    Args:
        shard: n samples.
        dropped: the stage that dropped each, or `KEPT`.
        stage: its number, from 0.
    """
    last = np.where(dropped == KEPT, np.iinfo(np.int16).max, dropped)  # the last stage that a sample enters
    before = [np.flatnonzero(last >= number) for number in range(stage + 1)]
    sizes = [len(shard), *(len(rows) for rows in before)]
    cut = shard.take(before[-1])
    cut.wider = [rows for number, rows in enumerate(before) if sizes[-1] < len(rows) < sizes[number]]
    return cut


@dataclass(frozen=True, eq=False)
class ColumnTask:
    """What is to be computed of one shard.

    Attributes:
        id: of the shard.
        dropped: (n,) the stage that dropped each sample, as a run knows it; None where no stage was yet.
        stage: that the columns are for.
        needs: columns.
        signals: that the rule brought with it.
    """

    id: str
    dropped: Int16[np.ndarray, "n"] | None = None
    stage: int = 0
    needs: tuple[str, ...] = ()
    signals: Mapping[str, SampleSignal] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True, eq=False)
class PassTask:
    """One shard of a `StagePass`.

    Attributes:
        id: of the shard.
        dropped: (n,) the stage that dropped each sample.
        mark: `key_mark` of the shard's keys.
        alone: whether it is the only shard, so that an error need not name it.
    """

    id: str
    dropped: Int16[np.ndarray, "n"]
    mark: bytes
    alone: bool = False

    def __str__(self) -> str:
        return self.id


@dataclass(frozen=True, eq=False)
class StagePass:
    """One pass of a stage, which all its shards share.

    Attributes:
        stage: its number, from 0.
        rule: of the stage.
        draws: its random numbers.
        statistic: the name of the statistic that looks at the samples; "" for the decision.
        statistics: what the passes before it measured.
    """

    stage: int
    rule: KeepRule
    draws: HashDraws
    statistic: str
    statistics: Statistics


@dataclass(frozen=True, eq=False)
class Decided:
    """What a rule says of the samples of a shard that reach it.

    Attributes:
        keep: (k,) whether each is kept.
        values: (k,) of the column that decides; empty where there is none.
        beside: samples beside the cuts.
    """

    keep: Bool[np.ndarray, "k"]
    values: Float[np.ndarray, "_"]
    beside: list[BoundarySample]


@dataclass(frozen=True, eq=False)
class ShardWork:
    """The work on shards, wherever it is done; what a worker of a `ShardRunner` starts with, all of it sent to it.

    Args:
        table: the pool.
        signals: by name.
        store: gets the columns, and the texts of tar shards: a folder that every machine sees.
    """

    table: SampleTable
    signals: Mapping[str, SampleSignal]
    store: ColumnStore

    def __call__(self) -> Callable[..., Any]:
        """The work on one shard."""
        return self.do

    def do(self, task: ColumnTask | PassTask, which: StagePass | None = None) -> Any:
        """What a task asks for: the number of samples of columns, else a statistic or what was decided.

        Args:
            task: of a shard.
            which: the pass, of a `PassTask`.
        """
        if isinstance(task, ColumnTask):
            return self.fill(task)
        assert which is not None
        return self.seen(task, which) if which.statistic else self.decided(task, which)

    def fill(self, task: ColumnTask) -> int:
        """Compute and store what is not there; gives the number of samples."""
        shard = self.table.load(task.id)
        if task.dropped is not None:
            shard = entered(shard, task.dropped, task.stage)
        for column in task.needs:
            fill_column(shard, column, {**self.signals, **task.signals}, self.store)
        return len(shard)

    def seen(self, task: PassTask, which: StagePass) -> PoolStatistic:
        """The statistic of one shard."""
        statistic = which.rule.statistics(which.draws)[which.statistic](which.statistics)
        shard, _ = self._entered(task, which)
        if len(shard):
            statistic.update(shard)
        return statistic

    def decided(self, task: PassTask, which: StagePass) -> Decided:
        """Which samples of one shard are kept."""
        shard, rows = self._entered(task, which)
        column, cuts = which.rule.column, which.rule.cuts(which.statistics)
        if not len(shard):
            return Decided(np.empty(0, bool), np.empty(0), [])
        keep = which.rule.keep(shard, which.statistics, which.draws)
        if not column:
            return Decided(keep, np.empty(0), [])
        values = score_of(shard, column)
        names = (shard.column("name"), shard.column("text"))
        return Decided(keep, values, beside_cuts(shard.keys, values, keep, cuts, (task.id, rows), names))  # type: ignore[arg-type]  # both are lists

    def _entered(self, task: PassTask, which: StagePass) -> tuple[Shard, np.ndarray]:
        """The samples of a shard that are left, with the columns that a rule needs, and their rows."""
        rows = np.flatnonzero(task.dropped == KEPT)
        if not len(rows):
            return Shard(task.id, np.empty(0, KEY), {}), rows
        shard = self.table.load(task.id)
        if key_mark(shard.keys) != task.mark:
            raise DataError(f"{task.id} has changed while it was curated")
        shard = entered(shard, task.dropped, which.stage)
        signals = {**self.signals, **{signal.name: signal for signal in which.rule.signals}}
        try:
            for column in which.rule.needs:
                fill_column(shard, column, signals, self.store)
        except UsageError as error:
            if task.alone:
                raise
            raise UsageError(f"{task.id}: {error}") from error
        return shard, rows


def key_mark(keys: Keys) -> bytes:
    """A hash of the keys of a shard, in their order."""
    return hashlib.blake2b(np.ascontiguousarray(keys).tobytes(), digest_size=16).digest()
