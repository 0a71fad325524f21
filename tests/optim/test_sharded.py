from __future__ import annotations

import functools
import importlib.util
import json
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


def cases_asked(items, world):
    """What the selected tests of this file look at, each process computes no more: a quick run has one of them."""
    own = [item.callspec.params for item in items if item.path == Path(__file__)]
    own = [params for params in own if params["processes"] == world]
    pairs = [[params["name"], params["kind"]] for params in own if "kind" in params]
    return pairs, [params["name"] for params in own if "kind" not in params]


@pytest.fixture(scope="module", params=[2, 4])
def processes(request, tmp_path_factory):
    """World size and what each real gloo process computed."""
    world, folder = request.param, tmp_path_factory.mktemp("sharded")
    asked = json.dumps(cases_asked(request.session.items, world))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(rank), str(world), str(folder / "store"), str(folder / "out"), asked],
            env=environment,
        )
        for rank in range(world)
    ]
    try:
        assert [process.wait(timeout=500) for process in started] == [0] * world
    finally:
        for process in started:
            process.kill()
    return world, [torch.load(folder / f"out.{rank}", weights_only=True) for rank in range(world)]


@functools.cache
def alone(name, steps):
    """What one process computes without any sharding."""
    return cases.run(cases.CASES[name](), lambda model: model, steps)


@pytest.mark.parametrize("kind", ["all", "mixed", "hybrid"])
@pytest.mark.parametrize("name", cases.CASES)
def test_shards_are_clipped_like_the_whole_model(processes, name, kind):
    world, results = processes
    if not cases.runs(name, kind, world):
        assert (name, kind) not in results[0][0]
        return
    expected = alone(name, cases.steps_of(name, kind))
    assert expected["clipped"] >= 1 or not expected["norms"]
    for result, _ in results:
        mine = result[name, kind]
        for ours, theirs in zip(mine["weights"], expected["weights"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
        torch.testing.assert_close(mine["norms"], expected["norms"], rtol=1e-9, atol=1e-10)
        assert mine["clipped"] == expected["clipped"]


@pytest.mark.parametrize("name", cases.METHODS)
def test_in_single_precision_every_step_agrees_to_a_millionth(processes, name):
    expected = cases.run_single_steps(cases.CASES[name](), lambda model: model)
    for _, single in processes[1]:
        for ours, theirs in zip(single[name], expected, strict=True):
            largest = max(float(grad.abs().max()) for grad in theirs)
            for one, other in zip(ours, theirs, strict=True):
                # sharding sums the gradients themselves in another order, so that small entries differ absolutely
                torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6 * largest)
