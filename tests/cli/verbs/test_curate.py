"""`binderclip curate` through its entry point: the files it leaves, and one result for every cut of a pool."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from binderclip.curate import KeySelection
from binderclip.data import ShardDataset, load_data, write_shards

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
    assert set(command("curate", "--list", "--json").json()) == {"presets", "rules", "columns", "request"}


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
        (("noto-emoji", "--split", "val", "-r", "density-pruning", "--set", "stage.k=500"), 2, "for 500 clusters"),
    ],
)
def test_mistakes_are_named(command: Command, recipe: str, words: tuple[str, ...], code: int, said: str) -> None:
    done = command("curate", *words)
    assert (done.code, said in done.err) == (code, True), done.err


PLAN = ("curate", "--recipe", "datacomp-clip-score", "--plan", "--samples", "1e9")


def test_a_plan_needs_no_pool_and_leaves_nothing(command: Command, tmp_path: Path) -> None:
    asked = (*PLAN, "--machines", 20, "--cores", 32, "--memory", 256, "--price", 2, "--bandwidth", 2)
    found = command(*asked, "--json").json()
    assert found["samples"] == 1e9
    assert found["machines"]["memory"] == 256e9
    assert found["passes"][0]["name"] == "reading"
    assert found["hours"] == pytest.approx(sum(one["hours"] for one in found["passes"]))
    assert found["cost"] == pytest.approx(found["hours"] * 20 * 2)
    assert found["at_least"] is False
    assert not list(tmp_path.iterdir())
    shown = command(*asked)
    assert "together" in shown.out
    assert found["stops"].split(":")[0] in " ".join(shown.out.split())
    assert "Everything linear is extrapolated" in shown.err
    twice = command(*PLAN[:-1], "2e9", *asked[len(PLAN) :], "--json").json()
    for one, two in zip(found["passes"], twice["passes"], strict=True):
        assert two["bytes_read"] == pytest.approx(2 * one["bytes_read"])
        assert two["hours"] == pytest.approx(2 * one["hours"], rel=0.05)  # but for sorting


def test_a_plan_is_written_where_that_is_asked_for(command: Command, tmp_path: Path) -> None:
    command(*PLAN, "--out", "there", "--set", "stage.fraction=0.1")
    assert sorted(path.name for path in (tmp_path / "there").iterdir()) == ["plan.html", "plan.json"]
    found = json.loads((tmp_path / "there" / "plan.json").read_text())
    assert "together" in (tmp_path / "there" / "plan.html").read_text()
    assert found["passes"]
    kept = found["passes"][-1]["bytes_written"]
    more = command(*PLAN, "--json").json()["passes"][-1]["bytes_written"]
    assert more - kept == pytest.approx(16 * 0.2 * 1e9)  # a key for each sample that stays


def test_shares_come_from_an_earlier_run(command: Command, recipe: str, tmp_path: Path) -> None:
    command("curate", "noto-emoji", "--split", "val", "--recipe", recipe)
    asked = ("curate", "-r", recipe, "--plan", "--samples", "1e8", "--json")
    like = command(*asked, "--kept", "curated/report.json").json()
    whole = command(*asked).json()
    assert like["hours"] < whole["hours"]
    stages = json.loads((tmp_path / "curated" / "report.json").read_text())["stages"]
    shares = ",".join(repr(stage["kept"] / stage["entered"]) for stage in stages)
    assert command(*asked, "--kept", shares).json()["hours"] == like["hours"]
    unknown = command(*asked, "--model", "open_clip:ViT-B-32/openai").json()  # which no rule asks
    assert unknown["hours"] == whole["hours"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--samples", "0"), "--samples"),
        (("--samples", "nan"), "--samples"),
        (("--samples", "1e30"), "--samples"),
        (("--machines", "0"), "--machines"),
        (("--memory", "nan"), "--memory"),
        (("--bandwidth", "-1"), "--bandwidth"),
        (("--price", "inf"), "--price"),
        (("--cores", "9999999"), "--cores"),
        (("--picture-bytes", "0"), "--picture-bytes"),
        (("--kept", "half"), "--kept half: numbers with commas"),
        (("--kept", "0.5,0.5"), "at most 1 stages"),
        (("--kept", "none.json"), "--kept none.json: no such file"),
        (("--encode-rate", "0"), "pictures a second of a pool is 0"),
        (("--width", "0"), "--width"),
        (("--encode-rate", "1,2,3"), "give pictures a second"),
        (("--out", "s3://bucket/x"), "written to a folder of files"),
        (("--pool", "embedded", "--shards"), "parts have none"),
    ],
)
def test_plans_that_cannot_be(command: Command, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = command(*PLAN, *words)
    assert (done.code, said in " ".join(done.err.split())) == (2, True), done.err
    assert not list(tmp_path.iterdir())


def test_options_of_a_plan_and_of_a_run_do_not_mix(command: Command, tmp_path: Path) -> None:
    for words, said in (
        (("curate", "x", "-r", "number-free", "--samples", "5"), "--samples belongs to a plan"),
        (("curate", "x", "-r", "number-free", "--plan", "--samples", "5"), "a plan needs no pool"),
        (("curate", "--plan", "--samples", "5"), "give a recipe to plan"),
        (("curate", "-r", "number-free", "--plan"), "--samples 1e9"),
    ):
        done = command(*words)
        assert (done.code, said in done.err) == (2, True), done.err
    assert not list(tmp_path.iterdir())


def test_a_pipe_and_a_link_to_itself_are_refused(command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    done = command(*PLAN, "--kept", "pipe.json")
    assert (done.code, "is a named pipe, not a file" in done.err) == (2, True), done.err
    (tmp_path / "loop").symlink_to("loop")
    for words in (("curate", "noto-emoji", "-r", "exact-duplicates"), ("embed", "noto-emoji")):
        done = command(*words, "--out", "loop")
        assert (done.code, "loop is a link to what is not there" in done.err) == (2, True), done.err


def test_plain_photographs_are_a_pool_for_rules_that_need_no_text(command: Command, tmp_path: Path) -> None:
    """The first example of the verb's help, on a folder of pictures and nothing else: one of two equal files stays."""
    (tmp_path / "photos").mkdir()
    for number, shade in enumerate((10, 90, 10, 200, 90)):
        Image.new("RGB", (12, 10), (shade, 0, 0)).save(tmp_path / "photos" / f"{number}.png")
    found = command("curate", "photos/", "--recipe", "exact-duplicates", "--shards", "--json")
    assert found.code == 0, found.err
    rows = pq.read_table(tmp_path / "curated" / "samples.parquet").to_pylist()
    kept = sorted(Path(row["name"]).stem for row in rows if row["kept"])
    assert sorted({"2": "0", "4": "1"}.get(name, name) for name in kept) == ["0", "1", "3"]
    assert {row["text"] for row in rows} == {""}
    shards = ShardDataset(tmp_path / "curated" / "shards" / "kept-00000.tar", captions=None)
    assert sorted(Path(sample.key).stem.partition("_")[0] for sample in shards) == kept
    # Rules that read captions, themselves or by what a column is computed of, say which layout would be right.
    for rule in (
        "{name='threshold', column='words', minimum=1}",
        "{name='top-fraction', column='clip_score', fraction=0.5}",
    ):
        (tmp_path / "r.toml").write_text(f"stage = [{rule}]")
        refused = command("curate", "photos/", "--recipe", "r.toml", "--out", "other")
        assert refused.code == 1
        assert "folders named after their classes (photos/cat/1.jpg)" in " ".join(refused.err.split())
        assert "captions=" not in refused.err


def test_adapt_says_which_layout_photographs_need(command: Command, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (12, 10)).save(tmp_path / "photos" / "0.png")
    refused = command("adapt", "photos")
    assert refused.code == 1
    assert "folders named after their classes (photos/cat/1.jpg)" in " ".join(refused.err.split())
    assert "captions=" not in refused.err
