"""On shards of `fully_shard` the optimizers take the steps that they take on the whole model."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("sharded_optimizers.py")
_spec = importlib.util.spec_from_file_location("sharded_optimizers", SCRIPT)
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)
WORLD = 2


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    """What each real gloo process computed."""
    folder = tmp_path_factory.mktemp("sharded")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(WORLD), str(folder / "store"), str(folder / "out")],
            env=environment,
        )
        for rank in range(WORLD)
    ]
    try:
        assert [process.wait(timeout=200) for process in started] == [0] * WORLD
    finally:
        for process in started:
            process.kill()
    return [torch.load(folder / f"out.{rank}", weights_only=True) for rank in range(WORLD)]


@pytest.mark.parametrize("kind", ["", ", reloaded"])
@pytest.mark.parametrize("name", cases.CASES)
def test_shards_step_like_the_whole_model(processes, name, kind):
    expected = cases.run(cases.CASES[name], lambda model: model)
    assert 0 < expected["active"] <= 1
    assert not torch.allclose(expected["weights"][0], next(cases.build().parameters()))
    for result in processes:
        mine = result[name + kind]
        assert mine["active"] == pytest.approx(expected["active"])
        for ours, theirs in zip(mine["weights"], expected["weights"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_medians_across_samples_need_whole_gradients(processes):
    assert all("sharded over processes" in result["refusal"] for result in processes)
