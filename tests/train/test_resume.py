"""A run that is killed, however often and whenever, ends with the weights of one that was left alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from binderclip.data import load_data, write_shards
from binderclip.errors import CheckpointError, NotSupported
from binderclip.models import load
from binderclip.train import Recipe, run
from binderclip.train.engine import engine


def state(folder: Path) -> dict[str, torch.Tensor]:
    return load(folder).backbone.state_dict()


def assert_same_run(a: Path, b: Path) -> None:
    first, second = state(a), state(b)
    assert all(torch.equal(first[name], second[name]) for name in first)
    one, two = (json.loads((folder / "summary.json").read_text()) for folder in (a, b))
    assert one["figures"] == two["figures"]
    assert [s["evaluations"] for s in one["stages"]] == [s["evaluations"] for s in two["stages"]]
    rows = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (a, b)]
    assert [json.loads(r) for r in rows[0]] == [json.loads(r) for r in rows[1]]


@pytest.fixture
def thorough(tiny: dict[str, Any]) -> dict[str, Any]:
    """Two stages with everything that has a state: dropout, momentum, average, clip, measurements."""
    shared = {key: tiny.pop(key) for key in ("data", "epochs")}
    tiny["evaluation"]["every"] = 4
    tiny["checkpoint_every"] = 2
    tiny["stage"] = [
        {"name": "one", **shared, "ema": 0.9, "patch_dropout": 0.5, "clip": {"name": "norm", "max_norm": 0.5}},
        {"name": "two", **shared, "optimizer": {"name": "sgd", "momentum": 0.9}, "accumulate": 2, "batch_size": 8},
    ]
    return tiny


def test_killed_with_sigkill_at_random_moments(thorough: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(thorough))
    driver = Path(__file__).with_name("kill_driver.py")
    done = subprocess.run(
        [sys.executable, str(driver), str(tmp_path / "recipe.json"), str(tmp_path / "killed"), "11", "4"],
        capture_output=True, text=True, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.splitlines()[-1])["killed"] >= 2
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


# The uninterrupted run that all cut ones are compared with, made once.
WHOLE: list[Path] = []


@pytest.mark.parametrize("at", [1, 3, 8, 12, 14, 18])
def test_cut_at_every_kind_of_step(
    thorough: dict[str, Any],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    cut: Any,
    at: int,
) -> None:
    """Before the first checkpoint, between two, on one, at the end of a stage, in the second stage."""
    recipe = Recipe.from_dict(thorough)
    if not WHOLE:
        WHOLE.append(tmp_path_factory.mktemp("resume") / "whole")
        run(recipe, out=WHOLE[0], progress=False)
    cut(recipe, tmp_path / "cut", at)
    torch.manual_seed(77)
    np.random.seed(77)
    run(recipe, out=tmp_path / "cut", resume=True, progress=False)
    assert_same_run(WHOLE[0], tmp_path / "cut")


def test_other_settings_are_refused(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe.from_dict(tiny)
    monkeypatch.setattr(engine, "_keep", lambda context: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError, match="killed"):
        run(recipe, out=tmp_path / "a", progress=False)
    monkeypatch.undo()
    assert list((tmp_path / "a" / "checkpoints" / "00-train").glob("step-*"))
    with pytest.raises(CheckpointError, match=r"lr = 0.001, now it is 0.5"):
        run(recipe, out=tmp_path / "a", resume=True, progress=False, lr=0.5)
    run(recipe, out=tmp_path / "a", resume=True, progress=False, workers=0)
    with pytest.raises(CheckpointError, match="trained by other settings"):
        run(recipe, out=tmp_path / "a", resume=True, progress=False, lr=0.5)


def test_resume_in_an_empty_folder_starts(tiny: dict[str, Any], tmp_path: Path) -> None:
    assert run(Recipe.from_dict(tiny), out=tmp_path / "a", resume=True, progress=False).stages[0].resumed_from == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_go_on_exactly(tiny: dict[str, Any], tmp_path: Path, cut: Any, workers: int) -> None:
    write_shards(load_data("noto-emoji", "train").subset(range(50)), tmp_path / "s-%02d.tar", per_shard=17)
    tiny["model"] |= {"tokenizer": "clip"}
    tiny |= {"data": [str(tmp_path / "s-{00..02}.tar")], "samples": 112, "evaluation": {}, "workers": workers}
    recipe = Recipe.from_dict({key: value for key, value in tiny.items() if key != "epochs"})
    whole = run(recipe, out=tmp_path / "whole", progress=False)
    assert whole.stages[0].steps == 7  # more than two passes over the shards
    cut(recipe, tmp_path / "cut", 5)
    assert run(recipe, out=tmp_path / "cut", resume=True, progress=False).stages[0].resumed_from == 3
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    with pytest.raises(NotSupported, match="shards are a stream"):
        run(recipe.overridden(["model.tokenizer=captions"]), out=tmp_path / "b", progress=False)
