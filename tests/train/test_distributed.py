"""Two processes under torchrun train the same model as one, by DDP and by FSDP2."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import NotSupported
from binderclip.models import load
from binderclip.train import Recipe, World, run
from binderclip.train.distributed import join_world
from binderclip.train.engine import engine
from binderclip.train.recipe.check import check_processes


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_document: dict[str, Any]) -> Path:
    """A folder a recipe with runs `one` (here), `ddp` and `fsdp` (two processes; that of `plain` cut and resumed)."""
    folder = tmp_path_factory.mktemp("distributed")
    plain = tiny_document | {
        "optimizer": {"name": "sgd", "momentum": 0.9},
        "lr": 0.05,
        "clip": {"name": "norm", "max_norm": 1.0},
        "loss": {"name": "clip", "targets": "same-caption"},
    }
    # Towers of another size put tensors of their own where sharding looks for parameters: one epoch shows it.
    shorter = {"epochs": 1, "image_tokens": {"name": "resize", "keep": 0.3}, "text_length": 6}
    recipes = {"plain": plain} | {kind: plain | shorter | {"positions": kind} for kind in ("sincos", "interpolated")}
    few = {"kind": {"name": "classification"}, "data": [labelled(folder / "few")], "evaluation": {}, "batch_size": 4}
    recipes["labels"] = plain | few
    for name, recipe in recipes.items():
        (folder / f"{name}.json").write_text(json.dumps(recipe))
    worker = Path(__file__).with_name("distributed_worker.py")
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(worker), str(folder)],
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for name, recipe in recipes.items():
        run(Recipe.from_dict(recipe), out=folder / name / "one", progress=False)
    return folder


def labelled(folder: Path) -> str:
    """A folder of 24 pictures, ten of which have one of two labels: in some batches one process has none."""
    folder.mkdir()
    lines = ["file_name,caption,label"]
    for i in range(24):
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{i:02d}.png")
        lines.append(f"{i:02d}.png,picture {i},{'red' if i < 5 else 'blue' if i < 10 else ''}")
    (folder / "captions.csv").write_text("\n".join(lines))
    return str(folder)


def histories(folder: Path) -> dict[str, np.ndarray]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    names = ("loss", "grad_norm", "scale", "lr", "samples", "accuracy")
    return {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}


@pytest.mark.parametrize("recipe", ["plain", "sincos", "interpolated", "labels"])
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_equal_one(trained: Path, kind: str, recipe: str) -> None:
    folder = trained / recipe
    one, two = histories(folder / "one"), histories(folder / kind)
    for name, values in one.items():
        np.testing.assert_allclose(two[name], values, rtol=2e-4, err_msg=name)
    a, b = load(folder / "one").backbone.state_dict(), load(folder / kind).backbone.state_dict()
    moved = load(folder / "one" / "stages" / "start").backbone.state_dict()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=2e-5)
    assert (a["visual.proj"] - moved["visual.proj"]).abs().max() > 1e-3
    summaries = [json.loads((folder / run_ / "summary.json").read_text()) for run_ in ("one", kind)]
    assert summaries[0]["figures"] == pytest.approx(summaries[1]["figures"], abs=0.05)


def test_the_sharded_run_went_on_from_its_checkpoint(trained: Path) -> None:
    assert (trained / "resumed_from.txt").read_text() == "6"
    assert json.loads((trained / "plain" / "ddp" / "environment.json").read_text())["processes"] == 2


def test_shares_cover_a_batch_once() -> None:
    for size in (1, 2, 3, 5):
        rows = [i for rank in range(size) for i in range(17)[World(rank, size).share(17)]]
        assert rows == list(range(17))


def test_alone_without_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.leads, world.agree("x")) == (0, 1, True, "x")


@pytest.mark.parametrize(
    ("entries", "parallel", "message"),
    [
        ({"micro_batch": 4}, "ddp", "stage 'last': micro_batch runs in one process, and these are 2: use accumulate"),
        ({"kind": {"name": "segclip"}}, "ddp", "stage 'last': segclip runs in one process"),
        ({"kind": {"name": "private-head", "epsilon": 2.0}}, "ddp", "private-head runs in one process"),
        ({"ema": 0.9}, "fsdp", "stage 'last': ema together with fsdp"),
    ],
)
def test_what_the_last_stage_cannot_do_in_two_processes_is_refused_before_the_first_trains(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: dict[str, Any], parallel: str,
    message: str,
) -> None:  # fmt: skip
    recipe = Recipe.from_dict(tiny | {"stage": [{"name": "first"}, {"name": "last", **entries}]})
    monkeypatch.setattr(engine, "join_world", lambda device: contextlib.nullcontext(World(0, 2)))
    with pytest.raises(NotSupported, match=message):
        run(recipe, out=tmp_path / "a", parallel=parallel, progress=False)  # type: ignore[arg-type]
    assert not (tmp_path / "a").exists()
    check_processes(recipe.stage, 1, parallel)


def test_a_missing_device_is_named(tiny: dict[str, Any], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(NotSupported, match="cuda"):
        run(Recipe.from_dict(tiny), out=tmp_path / "a", device="cuda", progress=False)
    assert not (tmp_path / "a").exists()
