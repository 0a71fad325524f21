"""Two processes under torchrun train the same model as one, by DDP and by FSDP2."""

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

from binderclip.errors import NotSupported
from binderclip.models import load
from binderclip.train import Recipe, World, run
from binderclip.train.distributed import join_world


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
    # Towers of another size put tensors of their own where sharding looks for parameters.
    shorter = {"image_tokens": {"name": "resize", "keep": 0.3}, "text_length": 6}
    recipes = {"plain": plain} | {kind: plain | shorter | {"positions": kind} for kind in ("sincos", "interpolated")}
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


def histories(folder: Path) -> dict[str, np.ndarray]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if "loss" in row]
    return {name: np.array([row[name] for row in rows]) for name in ("loss", "grad_norm", "scale", "lr", "samples")}


@pytest.mark.parametrize("recipe", ["plain", "sincos", "interpolated"])
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


def test_a_missing_device_is_named(tiny: dict[str, Any], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(NotSupported, match="cuda"):
        run(Recipe.from_dict(tiny), out=tmp_path / "a", device="cuda", progress=False)
    assert not (tmp_path / "a").exists()
