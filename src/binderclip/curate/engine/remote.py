"""Columns of shards computed by other machines, which leave them in the store that the run reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int16

from binderclip.curate.engine.rule import SampleSignal, fill_column
from binderclip.curate.engine.shard import SampleTable, Shard
from binderclip.curate.engine.store import ColumnStore

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
class ColumnWork:
    """What a worker of a `ShardRunner` starts with; all of it is sent to it.

    Args:
        table: the pool.
        signals: by name.
        store: gets the columns, and the texts of tar shards: a folder that every machine sees.
    """

    table: SampleTable
    signals: Mapping[str, SampleSignal]
    store: ColumnStore

    def __call__(self) -> Callable[[ColumnTask], int]:
        """The work on one shard."""
        return self.fill

    def fill(self, task: ColumnTask) -> int:
        """Compute and store what is not there; gives the number of samples."""
        shard = self.table.load(task.id)
        if task.dropped is not None:
            shard = entered(shard, task.dropped, task.stage)
        for column in task.needs:
            fill_column(shard, column, {**self.signals, **task.signals}, self.store)
        return len(shard)
