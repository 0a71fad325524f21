"""`binderclip curate` through its entry point: the files it leaves, and one result for every cut of a pool."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from binderclip.curate import KeySelection
from binderclip.data import load_data, write_shards

Command = Callable[..., Any]
RECIPE = """
[[stage]]
name = "threshold"
column = "words"
minimum = 2
[[stage]]
name = "metaclip"
concepts = ["face", "hand", "moon", "person", "clock"]
t = 8
[[stage]]
name = "top-fraction"
column = "characters"
fraction = 0.5
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "mine.toml").write_text(RECIPE)
    return "mine.toml"


def test_the_files_tell_one_story(command: Command, recipe: str, tmp_path: Path) -> None:
    found = command("curate", "noto-emoji", "--split", "val", "--recipe", recipe, "--shards", "--json").json()
    names = ("selection.npy", "samples.parquet", "report.html", "report.json", "shards/kept-00000.tar")
    assert found["files"] == [f"curated/{name}" for name in names]
    keys = np.load(tmp_path / "curated" / "selection.npy")
    assert keys.dtype == np.dtype("u8,u8")
    assert len(keys) == found["kept"] > 0
    rows = pq.read_table(tmp_path / "curated" / "samples.parquet").to_pylist()
    assert sorted(row["uid"] for row in rows if row["kept"]) == KeySelection(keys).uids
    assert len(rows) == found["entered"] == found["stages"][0]["entered"] == 190
    page = (tmp_path / "curated" / "report.html").read_text()
    assert page.count("<img") > 4
    assert "http" not in page.replace("http-equiv", "")
    assert json.loads((tmp_path / "curated" / "report.json").read_text())["kept"] == len(keys)


def test_shards_workers_and_a_second_run_change_nothing(command: Command, recipe: str, tmp_path: Path) -> None:
    data = load_data("noto-emoji", split="val")
    write_shards(data, tmp_path / "a" / "x-%02d.tar", per_shard=200)
    write_shards(data, tmp_path / "b" / "y-%02d.tar", per_shard=17)
    for where, workers in (("a", 1), ("b", 2), ("b", 1)):
        done = command("curate", where, "-r", recipe, "-o", f"out-{where}", "--workers", workers)
        assert done.code == 0, done.err
    command("curate", "noto-emoji", "--split", "val", "-r", recipe, "-o", "out-c")
    one, two, three = (KeySelection.load(tmp_path / f"out-{name}" / "selection.npy") for name in "abc")
    assert one == two == three
    assert len(one) > 0
    other = command("curate", "a", "-r", recipe, "-o", "d", "--set", "seed=5", "--set", "stage.2.fraction=1").code
    assert other == 0
    assert KeySelection.load(tmp_path / "d" / "selection.npy") != one


@pytest.mark.parametrize("out", [(), ("--out", "pool/sub/here"), ("--out", "pool"), ("--out", "sub/../pool/x")])
def test_nothing_is_written_into_the_pool(command: Command, tmp_path: Path, out: tuple[str, ...]) -> None:
    write_shards(load_data("noto-emoji", split="val")[:9], tmp_path / "pool" / "x-%02d.tar", per_shard=9)
    before = sorted(tmp_path.rglob("*"))
    pool = "pool" if out else "."  # the folder by default stands in the current one
    done = command("curate", pool, "-r", "number-free", *out)
    assert (done.code, "lies inside the pool" in done.err) == (2, True), done.err
    assert sorted(tmp_path.rglob("*")) == before


def test_the_model_scores_pairs(command: Command, tmp_path: Path) -> None:
    words = ("curate", "noto-emoji", "--split", "val", "--recipe", "number-free", "--set", "stage.fraction=0.1")
    found = command(*words, "--json").json()
    assert found["kept"] == 19
    rows = pq.read_table(tmp_path / "curated" / "samples.parquet").to_pylist()
    best = sorted(rows, key=lambda row: -row["masked_clip_score"])[:19]
    assert {row["uid"] for row in best} == {row["uid"] for row in rows if row["kept"]}


def test_a_model_is_asked_for_only_where_the_data_lack_a_column(command: Command, tmp_path: Path) -> None:
    columns = {"uid": [f"{i:032x}" for i in range(9)], "text": ["a cat"] * 9, "clip_score": [i / 9 for i in range(9)]}
    (tmp_path / "scored").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "scored" / "0.parquet")
    words = ("curate", "scored", "--recipe", "datacomp-clip-score", "--model", "no-such-model")
    found = command(*words, "--json").json()
    assert found["kept"] == 2
    done = command("curate", "scored", "--recipe", "number-free", "--model", "no-such-model")
    assert (done.code, "no-such-model" in done.err) == (2, True), done.err


def test_the_list_names_everything(command: Command) -> None:
    shown = command("curate", "--list").out
    for name in ("density-pruning", "metaclip", "clip_score", "datacomp-basic"):
        assert name in shown
    assert set(command("curate", "--list", "--json").json()) == {"presets", "rules", "columns"}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "give a pool and a recipe"),
        (("noto-emoji",), 2, "give a pool and a recipe"),
        (("noto-emoji", "-r", "numberfree"), 2, "did you mean 'number-free'?"),
        (("noto-emoji", "-r", "none.toml"), 2, "there is no recipe none.toml"),
        (("noto-emojo", "-r", "number-free"), 2, "did you mean noto-emoji?"),
        (("noto-emoji", "-r", "mine.toml", "-o", "mine.toml"), 2, "is a file: give a folder"),
        (("noto-emoji", "-r", "mine.toml", "--set", "stage.0.columm='words'"), 2, "did you mean 'column'?"),
        (("noto-emoji", "-r", "mine.toml", "--set", "stage.0.column='wrods'"), 2, "did you mean 'words'?"),
        (("noto-emoji", "--split", "val", "-r", "datacomp-basic"), 2, "give the data a column `language`"),
        (("noto-emoji", "--split", "val", "-r", "density-pruning", "--set", "stage.k=500"), 2, "500 clusters need"),
    ],
)
def test_mistakes_are_named(command: Command, recipe: str, words: tuple[str, ...], code: int, said: str) -> None:
    done = command("curate", *words)
    assert (done.code, said in done.err) == (code, True), done.err
