"""`train --grid` (p039, arXiv 2404.08197): every combination, exact resume, equal costs of equal settings, mistakes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from binderclip import train
from binderclip.errors import CheckpointError, NotSupported, UsageError
from binderclip.settings import write_toml
from binderclip.train import ScalingStudy, StudyTable, load_grid

RECIPE = """
data = [{name = "noto-emoji", split = "val", limit = 32}]
samples = 32
batch_size = 16
[model]
arch = "open_clip"
embed_dim = 16
tokenizer = "captions"
vocabulary = 200
context = 8
vision = {image_size = 32, patch_size = 8, layers = 1, width = 32, head_width = 16}
text = {width = 16, heads = 1, layers = 1}
[evaluation]
data = [{name = "noto-emoji", split = "test", limit = 16}]
"""
GRID = """
recipe = "tiny.toml"
seeds = [3]
curves = "tokens"
[factors]
"stage.samples" = [16, 32]
[factors.tokens]
whole = []
"half of them" = ["stage.image_tokens={name='random', keep=0.5}"]
"""


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    (tmp_path / "grid.toml").write_text(GRID)
    return tmp_path / "grid.toml"


def test_a_grid_holds_every_combination_of_levels_and_seeds(grid: Path) -> None:
    study = load_grid(grid, set=["stage.lr=0.5", "seed=9"])
    assert [run.folder for run in study.runs] == [
        "16-whole-seed3", "16-half_of_them-seed3", "32-whole-seed3", "32-half_of_them-seed3",
    ]  # fmt: skip
    recipes = {run.folder: run.recipe for run in study.runs}
    assert [recipe.stage[0].samples for recipe in recipes.values()] == [16, 16, 32, 32]
    assert {recipe.stage[0].lr for recipe in recipes.values()} == {0.5}
    assert {recipe.seed for recipe in recipes.values()} == {3}
    assert recipes["16-whole-seed3"].stage[0].image_tokens is None
    assert recipes["16-half_of_them-seed3"].stage[0].image_tokens == {"name": "random", "keep": 0.5}


def test_neutral_strategies_cost_what_the_plain_one_does(grid: Path) -> None:
    """FLIP with all patches and the ordinary batch is CLIP; with half of them it is cheaper."""
    study = ScalingStudy(grid.parent / "tiny.toml", {
        "strategy": {"clip": [], "all": ["stage.image_tokens={name='random', keep=1.0}"],
                     "flip": ["stage.image_tokens={name='random', keep=0.5}"]},
    }, seeds=[0])  # fmt: skip
    plain, neutral, flip = (run.recipe.cost() for run in study.runs)
    assert plain.flops == neutral.flops
    assert flip.stages[0].image_tokens == 1 + 8
    assert flip.flops < 0.75 * plain.flops


def test_it_trains_resumes_exactly_and_takes_more_levels(grid: Path, tmp_path: Path) -> None:
    study = load_grid(grid)
    out = tmp_path / "out"
    stopped = study.run(out, progress=False, budget_s=0.0)
    assert len(stopped.runs) == 1
    # a run that was killed after its recipe was written
    half = study.runs[1]
    train.run(half.recipe, out=out / "runs" / half.folder, progress=False)
    (out / "runs" / half.folder / "summary.json").unlink()
    kept = (out / "runs" / "16-whole-seed3" / "summary.json").stat().st_mtime_ns
    table = study.run(out, resume=True, progress=False)
    assert (out / "runs" / "16-whole-seed3" / "summary.json").stat().st_mtime_ns == kept
    assert [run.folder for run in table.runs] == [run.folder for run in study.runs]
    assert [run.cost["samples"] for run in table.runs] == [16, 16, 32, 32]
    assert all(run.cost["flops"] == one.recipe.cost().flops for run, one in zip(table.runs, study.runs, strict=True))
    whole = load_grid(grid).run(tmp_path / "other", progress=False)
    assert whole.runs == table.runs
    for one in study.runs:
        first, second = (load_file(each / "runs" / one.folder / "model" / "open_clip_model.safetensors")
                         for each in (out, tmp_path / "other"))  # fmt: skip
        assert all(bool((first[name] == second[name]).all()) for name in first)
    document = json.loads((out / "table.json").read_text())
    assert len(document["cells"]) == 4
    assert (out / "frontier.png").is_file()
    with pytest.raises(UsageError, match="holds a grid already"):
        study.run(out, progress=False)
    with pytest.raises(CheckpointError, match="other settings"):
        load_grid(grid, set=["stage.lr=0.5"]).run(out, resume=True, progress=False)
    (out / "runs" / "16-whole-seed3" / "summary.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"summary\.json is damaged"):
        study.run(out, resume=True, progress=False)


def test_the_verb_prints_the_table_and_shows_a_plan(grid: Path, command: Callable[..., Any]) -> None:
    plan = command("train", "--grid", grid, "--check", "--json").json()["runs"]
    assert [run["levels"]["tokens"] for run in plan] == ["whole", "half of them"] * 2
    assert plan[0]["flops"] > plan[1]["flops"]
    assert "16-half_of_them-seed3" in command("train", "--grid", grid, "--check").out
    one = ["--set", "stage.batch_size=8"]
    done = command("train", "--grid", grid, "--out", "study", *one)
    assert done.code == 0, done.err
    assert "half of them" in done.out
    assert Path("study/frontier.png").is_file()
    again = command("train", "--grid", grid, "--out", "study", "--resume", "--json", *one).json()
    assert len(again["runs"]) == 4
    wrong = command("train", "scratch-64", "--grid", grid)
    assert wrong.code != 0
    assert "leave RECIPE and --data out" in wrong.err


def test_a_metric_that_is_not_measured_is_told_after_the_first_run(grid: Path, tmp_path: Path) -> None:
    study = ScalingStudy(tmp_path / "tiny.toml", {"stage.samples": [16, 32]}, seeds=[0], metric="zero_shot/nothing")
    with pytest.raises(UsageError, match="was not measured by 16-seed0: noto-emoji/image_to_text/R@1"):
        study.run(tmp_path / "out", progress=False)
    assert [path.name for path in (tmp_path / "out" / "runs").iterdir()] == ["16-seed0"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("recipe =", "recipes ="), "recipes: .*entries are name, recipe, set"),
        (("seeds = [3]", "seeds = []"), "seeds"),
        (("seeds = [3]", "seeds = [3, 3]"), "two runs of the grid have one folder, '16-whole-seed3'"),
        (('curves = "tokens"', 'curves = "width"'), "no factor 'width'"),
        (('"stage.samples"', '"stage.sample"'), r"stage\.sample = 16, tokens = whole: .*samples"),
        (("keep=0.5", "keep=2"), "tokens = half of them"),
        (('whole = []', ""), None),
        (('"half of them" =', 'whole_ = []\n"whole/" ='), "one folder"),
        (("[16, 32]", "[]"), "a level of each factor"),
        (("tiny.toml", "scratch-65"), "did you mean 'scratch-64'"),
        (("[16, 32]", "16"), r"factor 'stage\.samples': a factor is a list of values, such as \[1, 2\].*got 16"),
        (("[16, 32]", "[[16], 32]"), r"factor 'stage\.samples': a factor is a list of values"),
        (("whole = []", 'whole = "stage.lr=1"'), "level 'whole': a level is a list of entries in quotes.*'stage.lr=1'"),
        (("whole = []", "whole = [1]"), "level 'whole': a level is a list of entries in quotes"),
        (('"stage.samples" = [16, 32]', "seed = [1, 2]"), "the levels of seed change nothing: seeds are given as"),
        (("whole = []", "whole = []\nall = []"), "'16-whole-seed3' and '16-all-seed3'.*of tokens change nothing"),
    ],
)  # fmt: skip
def test_mistakes_in_the_file_are_named(grid: Path, change: tuple[str, str], message: str | None) -> None:
    assert change[0] in GRID
    grid.write_text(GRID.replace(*change))
    if message is None:
        assert len(load_grid(grid).runs) == 2
        return
    with pytest.raises(UsageError, match=message):
        load_grid(grid)


def test_a_missing_file_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no grid .*none\.toml"):
        load_grid(tmp_path / "none.toml")


def test_levels_in_code_are_lists_as_well(grid: Path) -> None:
    with pytest.raises(UsageError, match="level 'a': a level is a list of entries"):
        ScalingStudy(grid.parent / "tiny.toml", {"lr": {"a": "stage.lr=1"}})
    with pytest.raises(UsageError, match="a factor is a list of values"):
        ScalingStudy(grid.parent / "tiny.toml", {"lr": "0.1"})


def test_costs_that_are_not_counted_are_told_before_anything_runs(grid: Path, tmp_path: Path) -> None:
    private = ["stage.0.kind={name='private-head', epsilon=2.0}"]
    study = ScalingStudy(grid.parent / "tiny.toml", {"stage.samples": [16, 32]}, set=private)
    with pytest.raises(UsageError, match=r"x = 'flops' of 16-seed0 is not known, as stage 'train' is not counted"):
        study.run(tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_lengths_in_epochs_are_counted_by_their_data(grid: Path) -> None:
    factors: dict[str, Any] = {"stage.epochs": [1, 2], "tokens": {"whole": [], "half": ["stage.patch_dropout=0.5"]}}
    costs = ScalingStudy(grid.parent / "tiny.toml", factors, seeds=[0, 1]).costs()
    assert {folder: cost.samples for folder, cost in costs.items()} == {
        f"{epochs}-{tokens}-seed{seed}": 32 * epochs
        for epochs in (1, 2) for tokens in ("whole", "half") for seed in (0, 1)
    }  # fmt: skip
    assert costs["1-half-seed0"].flops < costs["1-whole-seed0"].flops == costs["1-whole-seed1"].flops  # type: ignore[operator]


def test_the_table_is_written_where_no_law_can_be_fitted(grid: Path, tmp_path: Path) -> None:
    """Errors that fall once and then stay, in the summaries of runs that are finished."""
    study = ScalingStudy(grid.parent / "tiny.toml", {"stage.samples": [16, 32, 48, 64, 80]}, seeds=[0])
    for one, error in zip(study.runs, (0.9, 0.5, 0.5, 0.5, 0.5), strict=True):
        folder = tmp_path / "out" / "runs" / one.folder
        folder.mkdir(parents=True)
        (folder / "recipe.toml").write_text(write_toml(one.recipe.document()))
        summary = {"cost": {"flops": one.recipe.cost().flops}, "figures": {"a/text_to_image/R@10": 1 - error}}
        (folder / "summary.json").write_text(json.dumps(summary))
    table = ScalingStudy(grid.parent / "tiny.toml", {"stage.samples": [16, 32, 48, 64, 80]}, seeds=[0],
                         curves="stage.samples").run(tmp_path / "out", resume=True, progress=False)  # fmt: skip
    assert table.without_law()["16"] == "a power law needs 3 different costs, and there are 1"
    one_curve = StudyTable([replace(run, levels={"all": "one"}) for run in table.runs])
    steps = StudyTable(
        [replace(run, levels={"all": "one", "stage.samples": run.levels["stage.samples"]}) for run in table.runs],
        curves="all",
    )
    assert list(one_curve.laws()) == []
    assert steps.laws() == {}
    assert "fall all at the least x" in steps.without_law()["one"]
    document = json.loads((tmp_path / "out" / "table.json").read_text())
    assert len(document["runs"]) == 5
    assert (tmp_path / "out" / "frontier.png").is_file()


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_parallel_is_refused_and_not_ignored(grid: Path, command: Callable[..., Any], parallel: str) -> None:
    wrong = command("train", "--grid", grid, "--parallel", parallel)
    assert wrong.code != 0
    assert "--parallel: a grid trains" in wrong.err


def test_pipes_are_allowed_by_the_caller_alone(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from binderclip.train.grid import study as module

    class Stopped(Exception):
        pass

    def stop(*_: Any, allow_pipe: bool, **__: Any) -> None:
        raise Stopped(allow_pipe)

    monkeypatch.setattr(module, "run", stop)
    for allowed in (True, False):
        with pytest.raises(Stopped, match=str(allowed)):
            load_grid(grid).run(tmp_path / "out", progress=False, allow_pipe=allowed)


def test_several_processes_are_refused(grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(NotSupported, match="one process"):
        load_grid(grid).run(tmp_path / "out")
