"""`CurationPipeline`: rules in sequence over a pool, as many passes as they need, the same result however it is cut."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float, Int16

from binderclip.curate.engine.keys import KEY, Keys, key_order, uids_of
from binderclip.curate.engine.remote import KEPT, ColumnTask, ColumnWork, entered
from binderclip.curate.engine.report import BoundarySample, CurationReport, StageReport, beside_cuts
from binderclip.curate.engine.rule import (
    Found,
    HashDraws,
    KeepRule,
    PoolStatistic,
    SampleSignal,
    computed_columns,
    fill_column,
    score_of,
)
from binderclip.curate.engine.selection import KeySelection
from binderclip.curate.engine.shard import SampleTable, Shard
from binderclip.curate.engine.store import ColumnStore
from binderclip.curate.signals.table import standard_signals
from binderclip.data.parallel.runner import LocalRunner, ShardRunner
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError

T = TypeVar("T")
Progress = Callable[[str, int, int], object]
"""Called with (what is done, shards that are done, of how many)."""


@dataclass(frozen=True)
class Curated:
    """What a pipeline made of a pool.

    Attributes:
        selection: keys of the samples that are kept.
        report: counts, thresholds and samples beside them, stage by stage.
        decisions: shard -> for each of its samples the number of the stage that dropped it, or -1.
        scores: shard -> column -> (n,) values that stages decided by, NaN for samples that did not reach them; empty
            unless they were asked for.
    """

    selection: KeySelection
    report: CurationReport
    decisions: Mapping[str, Int16[np.ndarray, "n"]]
    scores: Mapping[str, Mapping[str, Float[np.ndarray, "n"]]] = field(default_factory=dict)


class CurationPipeline:
    """Rules one after the other: each sees only the samples that those before it kept.

    The result is a function of the samples and the seed: it does not depend on how the pool is cut into shards, on
    their order, on the number of workers, or on interruptions. Between passes a sample costs 20 bytes of memory; rules
    that sort keep 24 to 40 more of each sample that reaches them.

    Args:
        stages: rules, or (name, rule).
        signals: name -> signal, for the columns that rules name and the data do not have.

    Raises:
        UsageError: no stage.

    Examples:
        >>> from binderclip.curate import CurationPipeline, ScoreThreshold, open_table
        >>> pipeline = CurationPipeline([ScoreThreshold(column="words", minimum=2)])
        >>> found = pipeline.run(open_table("noto-emoji", "val"))
        >>> len(found.selection) == found.report.stages[0].kept
        True
    """

    def __init__(
        self, stages: Sequence[KeepRule | tuple[str, KeepRule]], signals: Mapping[str, SampleSignal] | None = None
    ) -> None:
        if not stages:
            raise UsageError("a pipeline needs at least one stage")
        self.stages = [stage if isinstance(stage, tuple) else (stage.reason, stage) for stage in stages]
        self.signals = {**standard_signals(), **(signals or {})}

    def run(
        self,
        table: SampleTable,
        *,
        seed: int = 0,
        workers: int = 1,
        store: ColumnStore | None = None,
        scores: bool = False,
        progress: Progress | None = None,
        runner: ShardRunner | None = None,
    ) -> Curated:
        """Decide on every sample of a pool.

        Args:
            table: the pool.
            seed: of everything random, 0 to 2^64 - 1.
            workers: threads, each with a shard of its own.
            store: keeps what signals computed; a run that was interrupted goes on from there.
            scores: keep the values that stages decide by, 8 bytes each.
            progress: told after every shard.
            runner: reads shards and computes columns elsewhere, such as a `RayRunner`; this process decides, from what
                was left in `store`, whose folder every machine has to see. Signals without a version are computed here.

        Raises:
            UsageError: a column that neither the data nor a signal has, or that is not of the kind a rule wants; a
                runner without a store on disk.
            DataError: two samples with the same key, or data that cannot be read.
        """
        if runner is not None and (store is None or store.folder is None):
            raise UsageError("a runner needs a store with a folder, through which columns come back")
        run = _Run(self, table, seed, max(1, workers), store or ColumnStore(), progress or (lambda *_: None))
        run.runner = runner
        run.scores = {id: {} for id in table.ids} if scores else {}
        return run.everything()


class _Run:
    """One run: the keys of every shard and which stage dropped each sample."""

    def __init__(
        self,
        pipeline: CurationPipeline,
        table: SampleTable,
        seed: int,
        workers: int,
        store: ColumnStore,
        progress: Progress,
    ) -> None:
        self.stages, self.table, self.seed, self.here = pipeline.stages, table, seed, LocalRunner(workers)
        self.signals, self.store, self.progress = pipeline.signals, store, progress
        self.runner: ShardRunner | None = None
        self._work = ColumnWork(table, pipeline.signals, store)
        self.dropped: dict[str, Int16[np.ndarray, "n"]] = {}
        self.keys: dict[str, Keys] = {}
        self.scores: dict[str, dict[str, np.ndarray]] = {}

    def everything(self) -> Curated:
        self._elsewhere("reading", [ColumnTask(id) for id in self.table.ids])
        for id, keys in self._over("reading", lambda id: self.table.load(id).keys):
            self.keys[id], self.dropped[id] = keys, np.full(len(keys), KEPT, np.int16)
        _refuse_doubles(list(self.keys.values()))
        reports = [self._stage(number, name, rule) for number, (name, rule) in enumerate(self.stages)]
        kept = [self.keys[id][self._alive(id)] for id in self.table.ids]
        selection = KeySelection(np.concatenate([np.empty(0, KEY), *kept]))
        entered = sum(len(keys) for keys in self.keys.values())
        report = CurationReport(entered, len(selection), reports, list(self.table.skipped))
        return Curated(selection, report, self.dropped, self.scores)

    def _stage(self, number: int, name: str, rule: KeepRule) -> StageReport:
        report = StageReport(name, rule.reason, entered=self._left(), column=rule.column)
        if report.entered == 0:
            return report
        signals = {**self.signals, **{signal.name: signal for signal in rule.signals}}
        draws = HashDraws(self.seed, number)
        self._compute(number, name, rule, signals)
        found: dict[str, Any] = {}
        for title, make in rule.statistics(draws).items():
            found[title] = self._gathered(f"{name}: {title}", partial(make, found), number, rule, signals)
        self._decide(number, name, rule, signals, found, draws, report)
        report.kept, report.figures = self._left(), rule.figures(found)
        return report

    def _gathered(
        self,
        doing: str,
        make: Callable[[], PoolStatistic],
        number: int,
        rule: KeepRule,
        signals: Mapping[str, SampleSignal],
    ) -> Any:
        def one(id: str) -> PoolStatistic:
            statistic = make()
            shard, _ = self._entered(id, number, rule, signals)
            if len(shard):
                statistic.update(shard)
            return statistic

        whole: PoolStatistic | None = None
        for _, part in self._over(doing, one):
            if whole is None:
                whole = part
            else:
                whole.merge(part)
        assert whole is not None
        return whole.result()

    def _decide(
        self,
        number: int,
        name: str,
        rule: KeepRule,
        signals: Mapping[str, SampleSignal],
        found: Found,
        draws: HashDraws,
        report: StageReport,
    ) -> None:
        report.cuts = rule.cuts(found)

        def one(id: str) -> tuple[Keys, np.ndarray, Bool[np.ndarray, "n"], np.ndarray, list[BoundarySample]]:
            shard, rows = self._entered(id, number, rule, signals)
            if not len(shard):
                return shard.keys, np.empty(0), np.empty(0, bool), rows, []
            keep = rule.keep(shard, found, draws)
            values = score_of(shard, rule.column) if rule.column else np.empty(0)
            named = (shard.columns["name"], shard.columns["text"])
            beside = beside_cuts(shard.keys, values, keep, report.cuts, (id, rows), named) if rule.column else []  # type: ignore[arg-type]  # both are lists
            return shard.keys, values, keep, rows, beside

        for id, (keys, values, keep, rows, beside) in self._over(name, one):
            self.dropped[id][rows[~keep]] = number
            if len(values):
                if self.scores:
                    whole = self.scores[id].setdefault(rule.column, np.full(len(self.keys[id]), np.nan))
                    whole[rows] = values
                report.look(keys, values)
                report.stand_beside(beside)
        report.thin()

    def _entered(
        self, id: str, number: int, rule: KeepRule, signals: Mapping[str, SampleSignal]
    ) -> tuple[Shard, np.ndarray]:
        """The samples of a shard that are left, with the columns that a rule needs, and their rows."""
        rows = np.flatnonzero(self._alive(id))
        if not len(rows):
            return Shard(id, self.keys[id][:0], {}), rows
        shard = self.table.load(id)
        if not np.array_equal(shard.keys, self.keys[id]):
            raise DataError(f"{id} has changed while it was curated")
        shard = entered(shard, self.dropped[id], number)
        try:
            for column in rule.needs:
                fill_column(shard, column, signals, self.store)
        except UsageError as error:
            if len(self.table.ids) == 1:
                raise
            raise UsageError(f"{id}: {error}") from error
        return shard, rows

    def _alive(self, id: str) -> Bool[np.ndarray, "n"]:
        return self.dropped[id] == KEPT

    def _left(self) -> int:
        return sum(int(self._alive(id).sum()) for id in self.table.ids)

    def _compute(self, number: int, name: str, rule: KeepRule, signals: Mapping[str, SampleSignal]) -> None:
        """Have the columns of a stage computed elsewhere, where that is worth it: where they are stored."""
        left = [id for id in self.table.ids if self._alive(id).any()]
        if self.runner is None or not left:
            return
        computed = computed_columns(self.table.load(left[0]), rule.needs, signals)
        if any(signals[column].version for column in computed):
            own = {signal.name: signal for signal in rule.signals}
            tasks = [ColumnTask(id, self.dropped[id], number, rule.needs, own) for id in left]
            self._elsewhere(f"computing {name}", tasks)

    def _elsewhere(self, doing: str, tasks: list[ColumnTask]) -> None:
        if self.runner is not None:
            self.progress(doing, 0, len(tasks))
            for done, _ in enumerate(self.runner.over(tasks, self._work), 1):
                self.progress(doing, done, len(tasks))

    def _over(self, doing: str, work: Callable[[str], T]) -> Iterator[tuple[str, T]]:
        """The work on each shard, in the order of the shards."""
        total = len(self.table.ids)
        self.progress(doing, 0, total)
        for done, (id, result) in enumerate(self.here.over(self.table.ids, lambda: work), 1):
            self.progress(doing, done, total)
            yield id, result


def _refuse_doubles(parts: list[Keys]) -> None:
    keys = np.concatenate([np.empty(0, KEY), *parts])
    ordered = keys[key_order(keys)]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if len(same):
        raise DataError(
            f"one key twice, at {number_of(len(same), 'sample')}, the first is {uids_of(ordered[same[:1]])[0]}: give "
            "samples a `uid` (32 hexadecimal digits) or names that differ in all shards"
        )
