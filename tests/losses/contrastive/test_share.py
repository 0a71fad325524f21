from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from binderclip.losses.contrastive.share import Share

SCRIPT = Path(__file__).with_name("spread_cases.py")
_spec = importlib.util.spec_from_file_location("spread_cases", SCRIPT)
cases = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)


@pytest.fixture(scope="module", params=[2, 4])
def spread(request, tmp_path_factory):
    """World size and what each real gloo process computed for every case."""
    world, folder = request.param, tmp_path_factory.mktemp("spread")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(SCRIPT)]
    processes = [
        subprocess.Popen([*command, str(rank), str(world), str(folder / "store"), str(folder / "out")], env=environment)
        for rank in range(world)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0] * world
    finally:
        for process in processes:
            process.kill()
    return world, [torch.load(folder / f"out.{rank}", weights_only=True) for rank in range(world)]


def alone(settings, rows):
    """The same case in this process, on the first `rows` rows of the batch."""
    return cases.run_case(settings, [rows], 0, lambda model: model)


KINDS = [(name, kind) for name in cases.CASES for kind in (True, False)] + [(name, "equal") for name in cases.PROMISED]


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_several_processes_equal_one_with_the_whole_batch(spread, name, kind):
    world, results = spread
    if kind is True and kind not in cases.splits(name, world):
        assert (name, kind) not in results[0]
        return
    expected = alone(cases.CASES[name], sum(cases.counts_for(world, kind is not False)))
    for mine in (result[name, kind] for result in results):
        torch.testing.assert_close(mine["total"], expected["total"], rtol=0, atol=1e-12)
        for ours, theirs in zip(mine["grads"], expected["grads"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
        assert mine["metrics"].keys() == expected["metrics"].keys()
        for key, value in mine["metrics"].items():
            torch.testing.assert_close(value, expected["metrics"][key], rtol=0, atol=1e-12, msg=key)


@pytest.mark.parametrize("name", cases.GRADCACHE)
def test_micro_batches_inside_ddp_equal_one_process(spread, name):
    world, results = spread
    expected = alone(cases.CASES[name], sum(cases.counts_for(world, True)))
    for mine in (result["gradcache", name] for result in results):
        for ours, theirs in zip(mine["grads"], expected["grads"], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_share_arithmetic():
    share = Share((8, 3, 1, 10), rank=3)
    assert (share.size, share.total, share.offset, share.local, share.even) == (4, 22, 12, slice(12, 22), False)
