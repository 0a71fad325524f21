"""What is written: a table of all samples, and shards in which the kept samples are as they were."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from binderclip.curate import (
    CurationPipeline,
    DatasetTable,
    Membership,
    ScoreThreshold,
    ScoreTopFraction,
    open_table,
    write_decisions,
    write_kept_shards,
)
from binderclip.data import ShardDataset, load_data, write_shards
from binderclip.errors import DataError, UsageError

from .pools import ListTable, made_pool

STAGES = [("two words", ScoreThreshold(column="words", minimum=2)), ScoreTopFraction(column="characters", fraction=0.5)]


def parts(shard: Path) -> dict[str, bytes]:
    with tarfile.open(shard) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_kept_samples_of_tars_keep_every_part(tmp_path: Path) -> None:
    data = load_data("noto-emoji", split="val")[:50]
    sources = write_shards(data, tmp_path / "in" / "x-%02d.tar", per_shard=20)
    table = open_table(str(tmp_path / "in"))
    done = CurationPipeline(STAGES).run(table)
    written = write_kept_shards(done, table, tmp_path / "out")
    before = {name: content for path in sources for name, content in parts(path).items()}
    after = {name: content for path in written for name, content in parts(path).items()}
    assert {name: before[name] for name in after} == after
    assert {sample.key for sample in ShardDataset(written)} == {k for k in data.keys if k in done.selection}
    assert ShardDataset(written).count == len(done.selection)
    assert [path.name for path in written] == ["x-00.tar", "x-01.tar", "x-02.tar"]
    plain = DatasetTable(data)
    again = write_kept_shards(CurationPipeline(STAGES).run(plain), plain, tmp_path / "set", per_shard=10)
    assert [s.key for s in ShardDataset(again)] == [k for k in data.keys if k in done.selection]


def test_a_second_run_leaves_no_shard_of_the_first(tmp_path: Path) -> None:
    data = load_data("noto-emoji", split="val")[:50]
    write_shards(data, tmp_path / "in" / "x-%02d.tar", per_shard=20)
    tars, plain = open_table(str(tmp_path / "in")), DatasetTable(data)
    everything = ScoreThreshold(column="characters", minimum=1)
    first = Membership(member="name", values=data.keys[:5])
    for stages, pool, want in (
        ([everything], tars, ["x-00.tar", "x-01.tar", "x-02.tar"]),
        ([first], tars, ["x-00.tar"]),
        ([everything], plain, ["kept-00000.tar"]),
    ):
        done = CurationPipeline(stages).run(pool)
        written = write_kept_shards(done, pool, tmp_path / "out")
        assert [path.name for path in written] == want == sorted(path.name for path in (tmp_path / "out").glob("*.tar"))
        assert sorted(json.loads((tmp_path / "out" / "sizes.json").read_text())) == want
        again = open_table(str(tmp_path / "out"))
        assert sum(len(again.load(id)) for id in again.ids) == len(done.selection)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_folders_that_hold_something_else_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = load_data("noto-emoji", split="val")[:9]
    (shard,) = write_shards(data, tmp_path / "in" / "x-%02d.tar")
    before = shard.read_bytes()
    pool = open_table(str(tmp_path / "in"))
    done = CurationPipeline(STAGES).run(pool)
    with pytest.raises(UsageError, match=r"holds .*x-00\.tar, which is read"):
        write_kept_shards(done, pool, tmp_path / "in")
    plain = DatasetTable(data)
    with pytest.raises(UsageError, match=r"holds x-00\.tar, which is no shard of an earlier run"):
        write_kept_shards(CurationPipeline(STAGES).run(plain), plain, tmp_path / "in")
    assert shard.read_bytes() == before
    (kept,) = write_kept_shards(done, pool, tmp_path / "out")
    with pytest.raises(UsageError, match="which is read"):  # the pool is what an earlier run wrote
        write_kept_shards(done, open_table(str(tmp_path / "out")), tmp_path / "out")
    whole = kept.read_bytes()
    # A disk that fills up leaves the earlier shards as they were.
    monkeypatch.setattr("binderclip.curate.export.copy_shard", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(DataError, match=r"cannot write .*out: full"):
        write_kept_shards(done, pool, tmp_path / "out")
    assert kept.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_the_table_says_of_every_sample_what_became_of_it(tmp_path: Path) -> None:
    table = DatasetTable(load_data("noto-emoji", split="val")[:50], rows=8)
    done = CurationPipeline(STAGES).run(table, scores=True)
    rows = pq.read_table(write_decisions(done, table, tmp_path / "all.parquet")).to_pylist()
    assert len(rows) == 50
    assert {row["uid"] for row in rows if row["kept"]} == set(done.selection.uids)
    for row in rows:
        words = len(row["text"].split())
        assert row["words"] == words
        assert (row["dropped_by"] == "two words") == (words < 2)
        assert row["characters"] == (len(row["text"]) if words > 1 else None)
        assert row["kept"] == (row["dropped_by"] is None)


def test_scores_called_like_the_tables_own_columns_get_another_name(tmp_path: Path) -> None:
    names = ["a", "b", "c"]
    columns = {"kept": np.array([3.0, 1.0, 2.0]), "uid": np.arange(3), "score_uid": np.arange(3) * 10}
    stages = [ScoreThreshold(column=column, minimum=least) for column, least in (("kept", 2), ("uid", 0))]
    table = ListTable(columns, names)
    done = CurationPipeline([*stages, ScoreThreshold(column="score_uid", minimum=1)]).run(table, scores=True)
    read = pq.read_table(write_decisions(done, table, tmp_path / "all.parquet"))
    assert read.column_names == [
        "uid", "name", "text", "kept", "dropped_by", "score_kept", "score_score_uid", "score_uid"
    ]  # fmt: skip
    assert read["name"].to_pylist() == names
    assert read["kept"].to_pylist() == [False, False, True]
    assert read["score_kept"].to_pylist() == [3, 1, 2]
    assert read["score_score_uid"].to_pylist() == [0, None, 2]
    assert read["score_uid"].to_pylist() == [0, None, 20]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    columns, names = made_pool(20)
    table = ListTable(columns, names)
    done = CurationPipeline([ScoreThreshold(column="score", minimum=0)]).run(table)
    with pytest.raises(UsageError, match="tar shards and data sets"):
        write_kept_shards(done, table, tmp_path)
    with pytest.raises(DataError, match="cannot write"):
        write_decisions(done, table, tmp_path / "none" / "x.parquet")
    plain = DatasetTable(load_data("noto-emoji", split="val")[:5])
    with pytest.raises(DataError, match="nothing to write"):
        write_kept_shards(CurationPipeline([ScoreThreshold(column="words", minimum=99)]).run(plain), plain, tmp_path)
