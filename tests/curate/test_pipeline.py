"""`CurationPipeline`: one result for every cut of a pool; fractions, counts, errors; against plain Python."""

from __future__ import annotations

import math
import os
import pickle
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from binderclip.curate import (
    AnyOf,
    CapPerGroup,
    ColumnStore,
    Curated,
    CurationPipeline,
    KeepRule,
    KeySelection,
    Membership,
    NoneOf,
    OnePerGroup,
    ScoreThreshold,
    ScoreTopFraction,
)
from binderclip.errors import DataError, UsageError

from .pools import ListTable, made_pool

COLUMNS, NAMES = made_pool()


def curated(stages: list, table: ListTable | None = None, **options: object) -> Curated:
    return CurationPipeline(stages).run(table or ListTable(COLUMNS, NAMES), **options)


EVERY_KIND = [
    ScoreThreshold(column="score", minimum=0.2),
    AnyOf(rules=[ScoreTopFraction(column="other", fraction=0.6), Membership(member="kind", values=["a"])]),
    NoneOf(rules=[ScoreThreshold(column="other", minimum=2.0)]),
    CapPerGroup(group="group", count=20),
    OnePerGroup(group="pair", by="score"),
    ScoreTopFraction(column="score", fraction=0.5),
]


@pytest.mark.parametrize("shards", [1, 3, 17, 700])
def test_the_result_does_not_depend_on_shards_order_or_workers(shards: int) -> None:
    whole = curated(EVERY_KIND, ListTable(COLUMNS, NAMES), seed=3)
    order = np.random.default_rng(shards).permutation(len(NAMES))
    for workers in (1, 2):
        cut = curated(EVERY_KIND, ListTable(COLUMNS, NAMES, shards, order), seed=3, workers=workers)
        assert cut.selection == whole.selection
        assert _without_places(cut.report.as_dict()) == _without_places(whole.report.as_dict())
        for ours, theirs in zip(cut.report.stages, whole.report.stages, strict=True):
            assert np.array_equal(np.sort(ours.values), np.sort(theirs.values))
    assert 0 < len(whole.selection) < len(NAMES)
    assert curated(EVERY_KIND, ListTable(COLUMNS, NAMES), seed=4).selection != whole.selection


def _without_places(report: dict) -> list:
    return [
        {**stage, "boundary": [{k: v for k, v in b.items() if k not in ("shard", "row")} for b in stage["boundary"]]}
        for stage in report["stages"]
    ]


def test_stages_count_what_plain_python_counts() -> None:
    stages = [ScoreThreshold(column="score", minimum=0.5), Membership(member="kind", values=["a", "b"])]
    done = curated(stages, ListTable(COLUMNS, NAMES, 4))
    first = [i for i in range(len(NAMES)) if COLUMNS["score"][i] >= 0.5]
    second = [i for i in first if COLUMNS["kind"][i] in "ab"]
    assert [(s.entered, s.kept) for s in done.report.stages] == [(500, len(first)), (len(first), len(second))]
    assert done.selection == KeySelection([NAMES[i] for i in second])
    numbers = np.concatenate([done.decisions[str(i)] for i in range(4)])
    assert [(numbers == code).sum() for code in (0, 1, -1)] == [500 - len(first), len(first) - len(second), len(second)]


@pytest.mark.parametrize("fraction", [0, 0.1, 0.29, 0.5, 0.999, 1])
def test_fractions_are_exact_and_ties_go_by_key(fraction: float) -> None:
    rule = ScoreTopFraction(column="score", fraction=fraction)
    done = curated([rule], ListTable(COLUMNS, NAMES, 5))
    want = math.floor(round(fraction * 1000) * 500 / 1000)
    assert len(done.selection) == want
    uid = dict(zip(NAMES, (KeySelection([name]).uids[0] for name in NAMES), strict=True))
    best = sorted(range(500), key=lambda i: (-COLUMNS["score"][i], uid[NAMES[i]]))[:want]
    assert done.selection == KeySelection([NAMES[i] for i in best])


def test_pure_thresholds_change_nothing_the_second_time() -> None:
    pipeline = CurationPipeline(
        [ScoreThreshold(column="score", minimum=0.3), ScoreThreshold(column="other", maximum=1)]
    )
    kept = pipeline.run(ListTable(COLUMNS, NAMES)).selection
    rows = [i for i, name in enumerate(NAMES) if name in kept]
    part = {name: COLUMNS[name][rows] for name in ("score", "other")}
    assert pipeline.run(ListTable(part, [NAMES[i] for i in rows], 2)).selection == kept


@pytest.mark.parametrize("shards", [1, 6])
def test_empty_pools_and_stages_that_drop_everything(shards: int) -> None:
    empty = {name: values[:0] for name, values in COLUMNS.items()}
    none = curated(EVERY_KIND, ListTable(empty, [], shards))
    assert len(none.selection) == 0
    assert [stage.entered for stage in none.report.stages] == [0] * len(EVERY_KIND)
    all_gone = curated([ScoreThreshold(column="score", minimum=9), *EVERY_KIND], ListTable(COLUMNS, NAMES, shards))
    assert (len(all_gone.selection), all_gone.report.stages[0].dropped, all_gone.report.stages[1].entered) == (
        0,
        500,
        0,
    )


def test_errors_name_the_shard_where_there_are_several() -> None:
    for rule, said in (
        (Membership(member="language", values=["en"]), "languages of captions are not computed here"),
        (ScoreThreshold(column="ocr_words", maximum=0), "text in pictures is not read here"),
        (OnePerGroup(group="picture_group"), "picture_group is computed from pictures, and there are none"),
        (ScoreThreshold(column="scor", minimum=0), "there is no column 'scor': did you mean 'score'"),
    ):
        with pytest.raises(UsageError, match=f"^{said}"):
            curated([rule])
        with pytest.raises(UsageError, match=f"^0: {said}"):
            curated([rule], ListTable(COLUMNS, NAMES, 3))


def test_samples_without_a_score_are_dropped() -> None:
    columns = {"score": np.array([1.0, np.nan, 0.5, np.nan])}
    table = ListTable(columns, list("abcd"), 2)
    for rule in (ScoreThreshold(column="score", minimum=-9), ScoreTopFraction(column="score", fraction=1)):
        assert curated([rule], table).selection == KeySelection(["a", "c"])
    assert curated([ScoreTopFraction(column="score", fraction=0.25)], table).selection == KeySelection(["a"])
    alone = {"score": columns["score"], "kind": ["x", None, "x", None]}
    capped = curated([OnePerGroup(group="kind", by="score")], ListTable(alone, list("abcd")))
    assert capped.selection == KeySelection(["a", "b", "d"])


def test_caps_keep_the_best_of_each_group() -> None:
    done = curated([CapPerGroup(group="group", count=3, by="other")], ListTable(COLUMNS, NAMES, 7))
    want = []
    for group in set(COLUMNS["group"].tolist()):
        members = [i for i in range(500) if COLUMNS["group"][i] == group]
        want += sorted(members, key=lambda i: -COLUMNS["other"][i])[:3]
    assert done.selection == KeySelection([NAMES[i] for i in want])


def test_random_caps_are_uniform_over_a_group() -> None:
    columns, names = {"group": np.zeros(40, int)}, [f"x{i}" for i in range(40)]
    hits = np.zeros(40)
    for seed in range(400):
        kept = curated([CapPerGroup(group="group", count=10)], ListTable(columns, names), seed=seed)
        assert len(kept.selection) == 10
        hits += [name in kept.selection for name in names]
    # Each is kept with probability 1/4: 100 of 400, standard deviation 8.7.
    assert np.abs(hits - 100).max() < 4 * 8.7


def test_samples_beside_the_threshold_are_the_nearest() -> None:
    stage = curated([ScoreThreshold(column="other", minimum=0)], ListTable(COLUMNS, NAMES, 9)).report.stages[0]
    distances = np.abs(COLUMNS["other"])
    for kept in (True, False):
        side = [b for b in stage.boundary if b.kept == kept]
        mine = np.sort(distances[(COLUMNS["other"] >= 0) == kept])[:7]
        assert np.allclose([b.distance for b in side], mine)
        assert all((b.value >= 0) == kept for b in side)


class Counted:
    """A signal that counts how often it is computed."""

    name, needs, version = "counted", ("score",), "1"

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, shard):
        self.calls += 1
        if self.calls == self.stop:
            raise KeyboardInterrupt
        return shard.columns["score"] * 2

    stop = -1


def test_an_interrupted_run_goes_on_from_its_columns(tmp_path: Path) -> None:
    stages = [ScoreThreshold(column="counted", minimum=0.5), ScoreTopFraction(column="counted", fraction=0.5)]
    whole = CurationPipeline(stages, {"counted": Counted()}).run(ListTable(COLUMNS, NAMES, 6))
    signal = Counted()
    signal.stop = 4
    pipeline = CurationPipeline(stages, {"counted": signal})
    with pytest.raises(KeyboardInterrupt):
        pipeline.run(ListTable(COLUMNS, NAMES, 6), store=ColumnStore(tmp_path))
    signal.stop, signal.calls = -1, 0
    again = pipeline.run(ListTable(COLUMNS, NAMES, 6), store=ColumnStore(tmp_path))
    assert again.selection == whole.selection
    # Three shards were done; the second stage sees fewer samples, and reads what the first computed of all.
    assert signal.calls == 3
    found = pipeline.run(ListTable(COLUMNS, NAMES, 6), scores=True).scores
    for id, piece in zip(found, ListTable(COLUMNS, NAMES, 6).pieces, strict=True):
        reached = ~np.isnan(found[id]["counted"])
        assert np.array_equal(found[id]["counted"][reached], COLUMNS["score"][piece][reached] * 2)
    damaged = next(tmp_path.glob("counted-*.arrow"))
    damaged.write_bytes(damaged.read_bytes()[:40])
    with pytest.warns(RuntimeWarning, match="damaged"):
        assert pipeline.run(ListTable(COLUMNS, NAMES, 6), store=ColumnStore(tmp_path)).selection == whole.selection
    assert signal.calls == 10


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="at least one stage"):
        CurationPipeline([])
    with pytest.raises(UsageError, match="no column 'scoer': did you mean 'score'"):
        curated([ScoreThreshold(column="scoer", minimum=1)])
    with pytest.raises(UsageError, match="does not hold one number"):
        curated([ScoreThreshold(column="kind", minimum=1)])
    with pytest.raises(DataError, match="one key twice, at 1 sample"):
        curated(EVERY_KIND, ListTable({"score": np.ones(3)}, ["a", "b", "a"]))
    for wrong in (
        lambda: ScoreThreshold(column="score"),
        lambda: ScoreThreshold(column="score", minimum=2, maximum=1),
        lambda: ScoreThreshold(column="score", minimum=math.nan),
        lambda: ScoreTopFraction(column="score", fraction=1.5),
        lambda: CapPerGroup(group="kind", count=-1),
        lambda: Membership(member="kind", values=[]),
        lambda: AnyOf(rules=[]),
    ):
        with pytest.raises(UsageError):
            wrong()


def test_a_rule_is_a_short_class() -> None:
    class Even(KeepRule):
        column, reason = "group", "an even group"

        def keep(self, shard, found, draws):
            return shard.columns["group"] % 2 == 0

    done = curated([("even", Even())], ListTable(COLUMNS, NAMES, 3))
    assert len(done.selection) == sum(group % 2 == 0 for group in COLUMNS["group"].tolist())
    assert done.report.rows()[0][:2] == ("even", "an even group")


class _Elsewhere:
    """A runner whose workers get copies of what they are sent, as those of other processes do."""

    def __init__(self) -> None:
        self.calls = 0

    def over(self, items, start, shared=None):
        work = pickle.loads(pickle.dumps(start))()
        beside = () if shared is None else (shared,)
        for item in reversed(items):
            self.calls += 1
            yield item, work(*pickle.loads(pickle.dumps((item, *beside))))


@dataclass
class _Dear:
    """A signal that leaves a line in a file for each call."""

    log: Path
    name: str = "dear"
    needs: tuple[str, ...] = ("score",)
    version: str = "1"

    def __call__(self, shard):
        with self.log.open("a") as file:
            file.write(f"{os.getpid()} {shard.id} {len(shard)}\n")
        return shard.columns["score"] * 2


def test_columns_computed_elsewhere_are_those_computed_here(tmp_path: Path) -> None:
    stages = [
        ScoreThreshold(column="other", minimum=-0.5),
        ScoreTopFraction(column="dear", fraction=0.5),
        ScoreThreshold(column="other", minimum=0),
        ScoreTopFraction(column="dear", fraction=0.5),
    ]
    pipeline = CurationPipeline(stages, {"dear": _Dear(tmp_path / "log")})
    here = pipeline.run(ListTable(COLUMNS, NAMES, 5))
    (tmp_path / "log").unlink()
    runner = _Elsewhere()
    there = pipeline.run(ListTable(COLUMNS, NAMES, 5), store=ColumnStore(tmp_path / "columns"), runner=runner)
    assert there.selection == here.selection
    assert [stage.kept for stage in there.report.stages] == [stage.kept for stage in here.report.stages]
    # Reading, the column for two stages, of which the second finds what the first left, two quantiles, four decisions.
    assert runner.calls == (1 + 2 + 2 + 4) * 5
    lines = (tmp_path / "log").read_text().splitlines()
    assert len(lines) == 5
    assert sum(int(line.split()[2]) for line in lines) == there.report.stages[1].entered
    with pytest.raises(UsageError, match="a store with a folder"):
        pipeline.run(ListTable(COLUMNS, NAMES, 5), runner=runner)
