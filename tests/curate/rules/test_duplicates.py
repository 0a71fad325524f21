"""Semantic deduplication against the loop over all pairs; DataComp's image-based filter against its description."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from binderclip.curate import CurationPipeline, KeySelection, SemanticDuplicates, TargetClusters
from binderclip.curate.rules.duplicates import has_twin_before
from binderclip.errors import UsageError

from ..pools import ListTable


def planted(seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """40 directions, 25 of them with a near copy."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(40, 16))
    copies = rows[:25] + 0.01 * rng.normal(size=(25, 16))
    return np.concatenate([rows, copies]).astype(np.float32), [f"s{i}" for i in range(65)]


def test_twins_are_those_of_the_loop_over_pairs() -> None:
    rows = np.random.default_rng(1).normal(size=(50, 3))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    want = [any(float(rows[i] @ rows[j]) > 0.9 for i in range(j)) for j in range(50)]
    assert 5 < sum(want) < 45
    for block in (1, 7, 50, 2048):
        assert has_twin_before(rows, 0.9, block=block).tolist() == want


def test_one_of_each_planted_pair_stays() -> None:
    rows, names = planted()
    rule = SemanticDuplicates(embedding="e", k=4, eps=0.01)
    done = CurationPipeline([rule]).run(ListTable({"e": rows}, names))
    assert len(done.selection) == 40
    assert all((names[i] in done.selection) != (names[40 + i] in done.selection) for i in range(25))
    for shards in (3, 17):
        assert CurationPipeline([rule]).run(ListTable({"e": rows}, names, shards)).selection == done.selection
    for eps, left in ((0, 65), (2, 1)):
        rule = SemanticDuplicates(embedding="e", k=1, eps=eps)
        assert len(CurationPipeline([rule]).run(ListTable({"e": rows}, names)).selection) == left
    with pytest.raises(UsageError, match="eps is 3"):
        SemanticDuplicates(eps=3)


def test_the_twin_that_stays_is_the_farther_from_the_centroid() -> None:
    rows, names = planted()
    unit = rows / np.linalg.norm(rows.astype(float), axis=1, keepdims=True)
    near = unit @ unit.sum(0)  # of one cluster the centroid is the direction of the sum
    kept = CurationPipeline([SemanticDuplicates(embedding="e", k=1, eps=0.01)]).run(ListTable({"e": rows}, names))
    want = {i if near[i] < near[40 + i] else 40 + i for i in range(25)}
    assert 5 < len(want & set(range(25))) < 20
    assert kept.selection == KeySelection([names[i] for i in want | set(range(25, 40))])


def test_a_chain_of_twins_leaves_its_first() -> None:
    angle = np.radians([50, 35, 20, -45, -80])  # their centroid lies at 0
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    rule = SemanticDuplicates(embedding="e", k=1, eps=0.1)  # 15 degrees are twins, 30 are not
    done = CurationPipeline([rule]).run(ListTable({"e": rows}, list("abcde")))
    # c goes for b, which is preferred to it though a takes b away: no twin of c is kept.
    assert done.selection == KeySelection(list("ade"))
    assert done.report.stages[0].reason == "no cosine above 0.9 with one preferred to it in its cluster"


def test_clusters_of_targets(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    label = np.arange(60) % 3
    rows = np.eye(5)[label] + 0.05 * rng.normal(size=(60, 5))
    names = [f"s{i}" for i in range(60)]
    np.save(tmp_path / "targets.npy", np.array([[0, 0, 2.0, 0, 0], [0.1, 3.0, 0, 0, 0]], np.float32))
    rule = TargetClusters(embedding="e", k=3, targets=str(tmp_path / "targets.npy"))
    kept = CurationPipeline([rule]).run(ListTable({"e": rows}, names, 4)).selection
    assert kept == KeySelection([name for name, own in zip(names, label, strict=True) if own in (1, 2)])
    with pytest.raises(UsageError, match=r"none\.npy: no such file"):
        TargetClusters(targets=str(tmp_path / "none.npy"))
    (tmp_path / "bad.npy").write_bytes(b"PK\x03\x04" + b"x" * 40)
    with pytest.raises(UsageError, match="not a readable NumPy file"):
        TargetClusters(targets=str(tmp_path / "bad.npy"))
    for wrong in (np.zeros(3), np.array([["a", "b"]]), np.zeros((0, 5))):
        with pytest.raises(UsageError, match="one row a picture"):
            TargetClusters(targets=wrong)
    with pytest.raises(UsageError, match="targets have 2 numbers"):
        CurationPipeline([TargetClusters(embedding="e", k=3, targets=np.ones((1, 2)))]).run(
            ListTable({"e": rows}, names)
        )
