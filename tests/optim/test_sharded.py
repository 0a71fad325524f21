from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).with_name("sharded_cases.py")
_spec = importlib.util.spec_from_file_location("sharded_cases", SCRIPT)
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)


@pytest.fixture(scope="module", params=[2, 4])
def processes(request, tmp_path_factory):
    """World size and what each real gloo process computed."""
    world, folder = request.param, tmp_path_factory.mktemp("sharded")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(world), str(folder / "store"), str(folder / "out")],
            env=environment,
        )
        for rank in range(world)
    ]
    try:
        assert [process.wait(timeout=120) for process in started] == [0] * world
    finally:
        for process in started:
            process.kill()
    return world, [torch.load(folder / f"out.{rank}") for rank in range(world)]


@pytest.mark.parametrize("kind", ["all", "mixed", "hybrid"])
@pytest.mark.parametrize("name", cases.CASES)
def test_shards_are_clipped_like_the_whole_model(processes, name, kind):
    world, results = processes
    if kind == "hybrid" and world == 2:
        assert ("norm", "hybrid") not in results[0]  # replicate x shard needs four processes
        return
    expected = cases.run(cases.CASES[name](), lambda model: model)
    untouched = cases.run(cases.NormClip(float("inf")), lambda model: model)
    assert not torch.allclose(expected["weights"][0], untouched["weights"][0])
    for result in results:
        mine = result[name, kind]
        for ours, theirs in zip(mine["weights"], expected["weights"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
        if expected["norm"] is not None:
            torch.testing.assert_close(mine["norm"], expected["norm"], rtol=1e-12, atol=0)
