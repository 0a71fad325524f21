"""Plans of curation: hand arithmetic with made-up rates, the passes and the memory of real runs, what is refused."""

from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from binderclip.curate import (
    METHODS,
    PRESETS,
    AssumedPool,
    ColumnStore,
    CurationPipeline,
    CurationRecipe,
    ScoreThreshold,
    open_table,
    parse_recipe,
    plan_curation,
)
from binderclip.curate.plan_costs import COSTS
from binderclip.data import (
    ClusterPlan,
    LocalRunner,
    Machines,
    MeasuredRates,
    Rate,
    load_data,
    measured_rates,
    write_shards,
)
from binderclip.data.parallel.plan import PlannedPass
from binderclip.errors import UsageError
from binderclip.models import load_encoder
from binderclip.models.files import registry

from .pools import ListTable, made_pool

ONE = Machines(count=1, cores=1, memory=1e18, bandwidth=1e18)
STAGES: dict[str, dict[str, Any]] = {
    "threshold": {"column": "score", "minimum": 0.2},
    "top-fraction": {"column": "score", "fraction": 0.5},
    "mean-rank": {"columns": ["score", "other"], "fraction": 0.5},
    "membership": {"member": "kind", "values": ["a"]},
    "cap-per-group": {"group": "group", "count": 3},
    "one-per-group": {"group": "pair"},
    "tail-trimming": {"group": "group", "count": 1, "classes": 2},
    "metaclip": {"concepts": ["sample", "7"], "t": 30},
    "semantic-duplicates": {"k": 3},
    "cluster-pruning": {"k": 3, "keep_share": 0.5},
    "target-clusters": {"k": 3, "targets": np.eye(4)[:2]},
    "any-of": {"rules": [{"name": "threshold", "column": "score", "minimum": 0.9},
                         {"name": "top-fraction", "column": "other", "fraction": 0.1}]},
    "none-of": {"rules": [{"name": "one-per-group", "group": "pair"}]},
}  # fmt: skip


def made_rates(seconds: float = 1.0, size: float = 1.0) -> MeasuredRates:
    """The names and units of the stored rates, each unit at the same price, but for those that are said otherwise."""
    stored = measured_rates()

    def priced(rates: Any, price: float) -> dict[str, Rate]:
        return {name: Rate(name, dict.fromkeys(rate.terms, price), 0.0) for name, rate in rates.items()}

    return MeasuredRates("m", "d", "l", priced(stored.seconds, seconds), priced(stored.bytes, size))


def recipe(*stages: dict[str, Any]) -> CurationRecipe:
    return parse_recipe({"stage": list(stages)})


def planned(*stages: dict[str, Any], n: float = 1024, machines: Machines = ONE, **settings: Any) -> ClusterPlan:
    return plan_curation(recipe(*stages), n, machines, rates=made_rates(), **settings)


def test_a_tiny_pipeline_by_hand() -> None:
    """A second and a byte for every unit: 1,024 samples in shards of 512, one threshold on a column of the data."""
    pool = AssumedPool(picture_bytes=40, shard_rows=512)
    plan = planned({"name": "threshold", "column": "score", "minimum": 0.5}, pool=pool, kept=[0.25])
    reading, keep, writing = plan.passes
    n = 1024
    first, second = reading.phases
    # every row and every byte of a picture with its caption of 60 is a second; then texts, keys and their order
    assert (first.seconds, first.read, first.written) == (n + n * 100, n * 100, n)
    assert (second.seconds, second.read, second.alone) == (n + n + n * 10, n, True)
    assert reading.worker == 1 + 512
    assert reading.single == 1 + (1 + n) + 512  # memory has a term that does not grow
    loading, deciding = keep.phases
    assert (keep.name, loading.seconds, loading.read, loading.alone) == ("1 score >= 0.5: keep", n, n, False)
    assert (deciding.seconds, deciding.read, deciding.alone) == (n, 0, True)
    assert keep.worker == 1 + 512
    assert keep.single == 1 + (1 + n) + (1 + n) + 512  # the process, keys, the pass, a shard
    (last,) = writing.phases
    assert last.seconds == n + n + 256 * 8  # texts, rows, order of those that are kept
    assert last.written == 16 * 256 + n + 8 * n * 0
    assert writing.single == 1 + (1 + n) + 8 * n + (1 + 256) + 512  # with one column of scores
    assert plan.total_hours == pytest.approx(sum(p.seconds or 0 for one in plan.passes for p in one.phases) / 3600)
    assert plan.unknown == []


def test_columns_are_computed_by_workers_once_and_read_in_every_pass() -> None:
    pool = AssumedPool(picture_bytes=40, shard_rows=512, width=8)
    plan = planned({"name": "top-fraction", "column": "clip_score", "fraction": 0.5}, pool=pool)
    _, computing, ranking, keep, _ = plan.passes
    (phase,) = computing.phases
    n = 1024
    picture, caption, score = (
        n + n * 40,
        n,
        n + n * 8,
    )  # a second a unit
    assert phase.seconds == n + picture + caption + score
    assert not phase.alone
    assert phase.read == n + n * 40  # texts, and every picture once more
    assert phase.written == 4 * n * (8 + 8 + 2)
    for one in (ranking, keep):
        assert [phase.alone for phase in one.phases] == [False, True]
        assert one.phases[0].read == n + 4 * n * 2  # texts and the scores alone
    assert ranking.phases[0].seconds == n + (n / 512 + 2 * n)
    assert ranking.phases[1].seconds == n + n * 10
    # a column is read whole, however little of it is left
    fewer = planned(
        {"name": "top-fraction", "column": "clip_score", "fraction": 0.5},
        {"name": "threshold", "column": "clip_score", "minimum": 0.1}, pool=pool,
    )  # fmt: skip
    assert fewer.passes[-2].read == n + 4 * n * 2
    # sizes read the pictures for width and for height
    sides = planned({"name": "threshold", "column": "side", "minimum": 1}, pool=pool).passes[1]
    assert sides.passes == 2
    assert sides.phases[0].read == n + 2 * n * 40
    # and what a stage has stored another does not compute again
    twice = planned(*[{"name": "threshold", "column": "side", "minimum": 1}] * 2, pool=pool)
    again = [one for one in twice.passes if "computing" in one.name]
    assert [one.name for one in again] == [sides.name, "2 side >= 1: computing nothing new"]
    assert (again[1].read, again[1].written) == (n + 4 * n * 2 * 2, 0)  # texts, and both sizes


def test_of_parts_a_pass_reads_the_embeddings_that_its_rule_needs() -> None:
    pool = AssumedPool(kind="parts", shard_rows=512, width=8, has=("score",))
    n = 1024
    stages = [
        {"name": "threshold", "column": "score", "minimum": 0.1},
        {"name": "semantic-duplicates", "k": 2},
        {"name": "threshold", "column": "clip_score", "minimum": 0.1},
    ]
    plan = planned(*stages, pool=pool)
    read = {one.name: one.phases[0].read for one in plan.passes}
    title = "2 no cosine above 0.95 with one preferred to it in its cluster"
    assert read["1 score >= 0.1: keep"] == n  # keys alone
    assert read[f"{title}: centroids"] == read[f"{title}: twins"] == read[f"{title}: keep"] == n + 8 * n
    assert read["3 clip_score >= 0.1: computing clip_score"] == n + 2 * 8 * n
    assert read["3 clip_score >= 0.1: keep"] == n + 4 * n * 2  # the score that was stored
    alone = {one.name: [phase.alone for phase in one.phases] for one in plan.passes}
    assert alone[f"{title}: centroids"] == alone[f"{title}: twins"] == [True]
    assert alone[f"{title}: keep"] == [False, True]
    said = [note for note in plan.notes if "one process looks at even with `--ray`" in note]
    assert [note.split(" takes")[0] for note in said] == [f"{title}: centroids", f"{title}: twins"]


def test_what_is_linear_doubles() -> None:
    stages = [{"name": "membership", **STAGES["membership"]}, {"name": "threshold", **STAGES["threshold"]}]
    one, two = (planned(*stages, n=n).passes for n in (1e6, 2e6))
    for a, b in zip(one[1:-1], two[1:-1], strict=True):
        assert [p.seconds for p in b.phases] == [2 * (p.seconds or 0) for p in a.phases]
        assert (b.read, b.written) == (2 * a.read, 2 * a.written)
    pairs = [
        planned({"name": "semantic-duplicates", "k": 5}, n=n, pool=AssumedPool(width=1)).passes[-3].phases[0].seconds
        for n in (1e9, 2e9)
    ]
    assert pairs[1] / pairs[0] == pytest.approx(4, rel=0.01)  # of which every pair within a cluster is compared


def test_machines_help_what_is_not_one_process() -> None:
    stage = {"name": "threshold", "column": "score", "minimum": 0.5}
    few, many = (planned(stage, machines=Machines(count=c, cores=4, memory=1e18, bandwidth=1e18)) for c in (1, 10))
    a, b = few.hours(few.passes[0]), many.hours(many.passes[0])
    assert a is not None
    assert b is not None
    shared = few.passes[0].phases[0].seconds or 0
    assert (a - b) * 3600 == pytest.approx(shared / 4 - shared / 40)
    assert few.single_hours == many.single_hours


@pytest.mark.parametrize("name", STAGES)
def test_passes_are_those_of_a_run(name: str) -> None:
    """Every rule of `METHODS`: titles of passes, and how often the pool is gone through."""
    columns, names = made_pool(300)
    columns["image_embedding"] = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    own = recipe({"name": name, **STAGES[name]})
    table, seen = ListTable(columns, names, 3), []
    pipeline = CurationPipeline(list(own.stages))
    pipeline.run(table, progress=lambda doing, done, total: seen.append(doing) if done == 0 else None)
    plan = plan_curation(own, 300, ONE, pool=AssumedPool(has=tuple(columns)))
    title = own.stages[0][0]
    said = [one.name.removeprefix("1 ").removesuffix(": keep") for one in plan.passes[:-1]]
    assert [one for one in said if "computing" not in one] == seen
    assert seen[-1] == title
    assert plan.unknown == []
    assert table.loads == 3 * len(seen)


def test_every_rule_and_preset_is_known(tmp_path: Path) -> None:
    assert set(STAGES) == set(METHODS)
    kinds = {type(rule) for name in STAGES for _, rule in recipe({"name": name, **STAGES[name]}).stages}
    assert kinds == set(COSTS)
    for name in PRESETS:
        np.save(tmp_path / "targets.npy", np.eye(4))
        settings = {"targets": str(tmp_path / "targets.npy")} if name == "datacomp-image-based" else {}
        plan = plan_curation(recipe({"name": name, **settings}), 1e6, ONE)
        assert plan.unknown == [], name
        assert plan.total_hours > 0


@dataclass(frozen=True, kw_only=True)
class EveryOther(ScoreThreshold):
    """A rule that no rate knows."""


def test_what_no_rate_knows_is_named() -> None:
    own = CurationRecipe(
        (
            ("odd", EveryOther(column="score", minimum=1)),
            recipe({"name": "metaclip", "concepts": ["a"], "t": 1}).stages[0],
        )
    )
    plan = plan_curation(own, 1e6, ONE)
    assert plan.unknown == ["1 odd: keep"]
    assert any(cell.startswith("at least") for cell in plan.rows()[1][-1])
    other = plan_curation(recipe({"name": "number-free"}), 1e6, ONE, model="open_clip:ViT-L-14/openai")
    assert len(other.unknown) == 1
    assert "computing" in other.unknown[0]
    assert any("without the weights" in note for note in other.notes)
    known = AssumedPool(encode=(900, 4000))
    assert not plan_curation(recipe({"name": "number-free"}), 1e6, ONE, model="other", pool=known).unknown
    assert plan_curation(recipe({"name": "number-free"}), 1e6, ONE, shards=True).unknown == ["writing the kept shards"]


def test_the_model_that_runs_is_the_model_that_is_planned_for() -> None:
    """`everyday` is the default of both; its second network costs time and memory."""
    pairs = recipe({"name": "number-free"})
    default, named, small = (plan_curation(pairs, 1e6, ONE, model=name) for name in ("", registry.DEFAULT, "small"))
    assert default == named
    assert not default.unknown

    def computing(plan: ClusterPlan) -> PlannedPass:
        return next(one for one in plan.passes if "computing" in one.name)

    seconds = [computing(plan).phases[0].seconds for plan in (default, small)]
    assert seconds[0] > 1.2 * seconds[1]
    weights = [
        sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        for model in map(load_encoder, (registry.DEFAULT, "small"))
    ]
    assert computing(default).worker - computing(small).worker == pytest.approx(weights[0] - weights[1], rel=0.05)


RUNS: dict[str, tuple[dict[str, Any], Callable[[ClusterPlan], float]]] = {
    "top-fraction": (STAGES["top-fraction"], lambda plan: plan.passes[1].single or 0),
    "one-per-group": (STAGES["one-per-group"], lambda plan: plan.passes[1].single or 0),
    "semantic-duplicates": ({"k": 20, "iterations": 2}, lambda plan: max(one.single or 0 for one in plan.passes)),
}


@pytest.mark.parametrize("name", RUNS)
def test_memory_is_that_of_a_run(name: str) -> None:
    """The largest that Python's allocator held in a run of 30,000 samples, against the plan's without the process."""
    n, d = 30_000, 32
    settings, _ = RUNS[name]
    columns, names = made_pool(n)
    columns["image_embedding"] = np.random.default_rng(0).normal(size=(n, d)).astype(np.float32)
    table = ListTable({key: columns[key] for key in ("score", "pair", "image_embedding")}, names, 60)
    own = recipe({"name": name, **settings})
    tracemalloc.start()
    CurationPipeline(list(own.stages)).run(table)
    measured = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    pool = AssumedPool(shard_rows=500, width=d, has=tuple(columns))
    plan = plan_curation(own, n, ONE, pool=pool)
    process = measured_rates().bytes["process"].of(process=1.0)
    said = max(one.single or 0 for one in plan.passes[:-1]) - process
    assert 0.6 < said / measured < 1.7


def test_columns_are_stored_as_large_as_planned(tmp_path: Path) -> None:
    """Bytes of the columns that a run through a runner leaves, and which passes it makes for them."""
    write_shards(load_data("noto-emoji", split="val")[:40], tmp_path / "x-%02d.tar", per_shard=20)
    stages = [
        {"name": "threshold", "column": "side", "minimum": 1},
        {"name": "one-per-group", "group": "picture_group"},
        {"name": "metaclip", "concepts": ["face", "hand", "with"], "t": 100},
    ]
    own, store, seen = recipe(*stages), ColumnStore(tmp_path / "columns"), []
    CurationPipeline(list(own.stages)).run(
        open_table(str(tmp_path), store=store), store=store, runner=LocalRunner(),
        progress=lambda doing, done, total: seen.append(doing) if done == 0 else None,
    )  # fmt: skip
    found: dict[str, int] = {}
    matches = 0
    for file in (tmp_path / "columns").glob("*.arrow"):
        with pa.memory_map(str(file)) as source:
            table = pa.ipc.open_file(source).read_all()
        name = table.column_names[0]
        found[name] = found.get(name, 0) + table.nbytes
        if name.startswith("entries"):
            matches += sum(len(row) for row in table.column(name).to_pylist())
    plan = plan_curation(own, 40, ONE, pool=AssumedPool(shard_rows=20, matches=matches / 40))
    written = {one.name.partition(": computing ")[2]: one.written for one in plan.passes if "computing" in one.name}
    assert written.pop("original_width, original_height") == found["original_width"] + found["original_height"]
    assert written.pop("picture_group") == found["picture_group"]
    ((name, size),) = written.items()
    assert size == pytest.approx(found[name], abs=2 * 8)  # an offset more in each shard
    assert [doing for doing in seen if doing.startswith("computing")] == [
        f"computing {title}" for title, _ in own.stages
    ]
    assert len(seen) == sum(2 if one.name == "reading" else 1 for one in plan.passes[:-1])


def test_the_limit_is_said_and_true() -> None:
    machines = Machines(memory=64e9)
    own = recipe({"name": "semantic-duplicates", "k": 100})
    plan = plan_curation(own, 1e6, machines)
    assert "twins' stops first" in plan.stops
    limit = float(plan.stops.split("at most ")[1].split()[0])
    below, above = (plan_curation(own, limit * factor, machines) for factor in (0.8, 1.2))
    assert not any("memory" in below.binds(one) for one in below.passes)
    assert [one.name for one in above.passes if "memory" in above.binds(one)]
    tiny = plan_curation(own, 1e6, Machines(memory=1e6))
    assert "whatever the number of samples" in tiny.stops


def test_parts_are_read_for_what_is_needed_and_have_no_pictures() -> None:
    plan = plan_curation(recipe({"name": "datacomp-clip-score"}), 1e6, ONE, pool=AssumedPool(kind="parts", width=512))
    assert plan.unknown == []
    (computing,) = (one for one in plan.passes if "computing" in one.name)
    keep = next(one for one in plan.passes if one.name.endswith("keep"))
    assert computing.read > 1e6 * 2 * 2 * 512 * 0.5  # two embeddings of float16, compressed, once
    assert keep.read < 1e6 * 100  # then names and the score
    with pytest.raises(UsageError, match="computed from pictures"):
        plan_curation(recipe({"name": "exact-duplicates"}), 1e6, ONE, pool=AssumedPool(kind="parts"))
    with pytest.raises(UsageError, match="parts have none"):
        plan_curation(recipe({"name": "number-free"}), 1e6, ONE, pool=AssumedPool(kind="parts"), shards=True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 0}, "samples is 0"),
        ({"n": math.nan}, "samples is nan"),
        ({"kept": [0.5, 0.5]}, "at most 1 stages"),
        ({"kept": [1.5]}, "a share from 0 to 1"),
        ({"kept": [math.nan]}, "a share from 0 to 1"),
    ],
)
def test_numbers_out_of_range_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        planned({"name": "threshold", "column": "score", "minimum": 0.5}, **settings)


@pytest.mark.parametrize("wrong", [{"picture_bytes": 0}, {"width": -1}, {"encode": (math.nan, 1.0)}, {"kind": "x"}])
def test_a_pool_that_is_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="of a pool is"):
        AssumedPool(**wrong)
