"""Passes by workers in other processes: everything is pickled on the way, and comes back in another order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from binderclip.curate import ColumnStore, Curated, CurationPipeline, HashDraws, ScoreThreshold, parse_recipe
from binderclip.curate.engine.remote import StagePass
from binderclip.errors import DataError, UsageError

from ..pools import ListTable, made_pool

cloudpickle = pytest.importorskip("cloudpickle")
STAGES: dict[str, dict[str, Any]] = {
    "threshold": {"column": "score", "minimum": 0.2},
    "top-fraction": {"column": "score", "fraction": 0.5},
    "mean-rank": {"columns": ["score", "other"], "fraction": 0.5},
    "membership": {"member": "kind", "values": ["a"]},
    "cap-per-group": {"group": "group", "count": 3},
    "one-per-group": {"group": "pair", "by": "other"},
    "tail-trimming": {"group": "group", "count": 0, "classes": 2},
    "metaclip": {"concepts": ["sample", "7", "9"], "target": 60},
    "semantic-duplicates": {"k": 3, "eps": 0.2},
    "cluster-pruning": {"k": 3, "keep_share": 0.5},
    "target-clusters": {"k": 3, "targets": np.eye(4)[:2]},
    "any-of": {"rules": [{"name": "top-fraction", "column": "other", "fraction": 0.1},
                         {"name": "cluster-pruning", "k": 3, "keep_share": 0.3}]},
    "none-of": {"rules": [{"name": "one-per-group", "group": "pair"}]},
}  # fmt: skip
OWN_ROWS = {"centroids", "twins", "1/centroids"}
"""Statistics that keep rows of embeddings."""


class PickledRunner:
    """Stands for a cluster: what a worker is given and what it gives is bytes; the last shard is done first."""

    def __init__(self) -> None:
        self.passes: list[str] = []
        self.largest = 0

    def over(
        self, items: Sequence[Any], start: Callable[[], Callable[..., Any]], shared: Any = None
    ) -> Iterator[tuple[Any, Any]]:
        beside = () if shared is None else (cloudpickle.dumps(shared),)
        sent = cloudpickle.dumps(start)
        for item in reversed(items):
            work = cloudpickle.loads(sent)()
            given = [cloudpickle.loads(each) for each in (cloudpickle.dumps(item), *beside)]
            answer = cloudpickle.dumps(work(*given))
            self.largest = max(self.largest, len(answer))
            yield item, cloudpickle.loads(answer)
        if isinstance(shared, StagePass):
            self.passes.append(shared.statistic or "keep")


def pool(n: int = 400) -> ListTable:
    columns, names = made_pool(n)
    columns["image_embedding"] = np.random.default_rng(0).normal(size=(n, 4)).astype(np.float32)
    return ListTable(columns, names, 5)


def run(stages: Sequence[dict[str, Any]], folder: Path, runner: PickledRunner | None = None) -> Curated:
    recipe = parse_recipe({"stage": list(stages)})
    pipeline = CurationPipeline(list(recipe.stages))
    return pipeline.run(pool(), seed=3, store=ColumnStore(folder), scores=True, runner=runner)


@pytest.mark.parametrize("name", STAGES)
def test_every_rule_decides_elsewhere_as_it_does_here(name: str, tmp_path: Path) -> None:
    """After a stage that drops some, so that the shards are cut."""
    stages = [{"name": "threshold", "column": "other", "minimum": -0.5}, {"name": name, **STAGES[name]}]
    here, runner = run(stages, tmp_path / "here"), PickledRunner()
    there = run(stages, tmp_path / "there", runner)
    assert 0 < len(here.selection) < here.report.stages[1].entered < 400
    assert there.selection == here.selection
    assert there.report.as_dict() == here.report.as_dict()
    for id, decisions in here.decisions.items():
        np.testing.assert_array_equal(there.decisions[id], decisions)
        assert there.scores[id].keys() == here.scores[id].keys()
        for column, values in here.scores[id].items():
            np.testing.assert_array_equal(there.scores[id][column], values)
    # Workers make every pass but those that keep rows of embeddings.
    rule = parse_recipe({"stage": stages}).stages[1][1]
    titles = [title for title in rule.statistics(HashDraws(0)) if title not in OWN_ROWS]
    assert runner.passes == ["keep", *titles, "keep"]


def test_what_comes_back_is_what_was_seen(tmp_path: Path) -> None:
    """Neither the list of concepts nor the centroids travel back with every shard."""
    concepts = [f"concept number {number}" for number in range(20_000)]
    runner = PickledRunner()
    run([{"name": "metaclip", "concepts": ["sample", *concepts], "t": 50}], tmp_path / "a", runner)
    assert runner.largest < 200_000  # 8 bytes a concept are counts
    runner = PickledRunner()
    run([{"name": "cap-per-group", "group": "pair", "count": 1}], tmp_path / "b", runner)
    assert runner.largest < 80 * 45 + 1000  # of 80 samples 32 bytes each


def test_what_goes_wrong_elsewhere_is_said_here(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"^[0-4]: there is no column 'none'"):
        run([{"name": "threshold", "column": "none", "minimum": 1}], tmp_path, PickledRunner())

    class Changing(ListTable):
        def load(self, id: str) -> Any:
            if self.loads > 9:
                self.names = [f"{name}!" for name in self.names]
            return super().load(id)

    columns, names = made_pool(50)
    with pytest.raises(DataError, match="has changed while it was curated"):
        CurationPipeline([ScoreThreshold(column="score", minimum=0.1)] * 4).run(Changing(columns, names, 5))
