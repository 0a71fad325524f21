"""What `fit` does with a checkpoint that is whole and yet no good: it takes the one before, and says so."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from binderclip.errors import CheckpointError
from binderclip.fit import Checkpoint, Diverged, fit


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 2)
        # A mask that is infinite on purpose, as causal ones are.
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]))


def go(folder: Path, steps: int, **settings: Any) -> tuple[Net, Any]:
    """A run of `steps` steps in all with checkpoints every two, resumed where it can be."""
    net = Net()
    batches = list(torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(1)))
    found = fit(
        lambda x: net.layer(x).pow(2).mean(), net, batches, lr=1e-2, schedule="constant",
        checkpoint=Checkpoint(folder, every=2), **{"steps": steps, **settings},
    )  # fmt: skip
    return net, found


def reseal(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the state in a checkpoint and make its seal right again."""
    state = torch.load(folder / "state.pt", weights_only=True)
    changed = change(state)
    torch.save(changed if isinstance(changed, list) else state, folder / "state.pt")
    content = (folder / "state.pt").read_bytes()
    (folder / "COMPLETE").write_text(json.dumps({"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}))


def nan(state: dict[str, Any]) -> None:
    state["module"]["layer.weight"][1, 2] = math.nan


def inf(state: dict[str, Any]) -> None:
    state["module"]["layer.bias"][0] = math.inf


DAMAGES: list[tuple[Callable[[dict[str, Any]], Any], str]] = [
    (nan, "parameter layer.weight is not finite"),
    (inf, "parameter layer.bias is not finite"),
    (lambda s: s["module"].update({"layer.weight": torch.zeros(3, 4)}), r"layer.weight is \(3, 4\) in it and \(2, 4\)"),
    (lambda s: s["module"].pop("layer.bias"), "layer.bias is missing in it"),
    (lambda s: s["module"].update({"more": torch.zeros(1)}), r"more is \(1,\) in it and missing in the model"),
    (lambda s: s["module"].update({"layer.bias": 3}), "layer.bias is no tensor in it"),
    (lambda s: s["optimizer"].update({"param_groups": []}), "its optimizer has groups of"),
    (lambda s: s.pop("optimizer"), "it lacks optimizer"),
    (lambda s: s.update({"module": 7}), "not laid out like the state of a run"),
    (lambda s: s.update({"callbacks": [{}]}), "it holds 1 states of callbacks"),
    (lambda s: s.update({"ema": {}}), "written with an average"),
    (lambda s: [1, 2, 3], "holds no state of a run"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_the_one_before_is_taken(tmp_path: Path, damage: Callable[[dict[str, Any]], Any], words: str) -> None:
    whole, _ = go(tmp_path / "whole", 8)
    go(tmp_path / "cut", 4)
    reseal(tmp_path / "cut" / "step-00000004", damage)
    with pytest.warns(UserWarning, match=rf"step-00000004 is passed over: .*{words}"):
        again, found = go(tmp_path / "cut", 8)
    assert found.resumed_from == 2
    for p, q in zip(whole.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)


@pytest.mark.parametrize(("damage", "words"), DAMAGES[:3])
def test_none_left_is_an_error_that_says_why(
    tmp_path: Path, damage: Callable[[dict[str, Any]], Any], words: str
) -> None:
    go(tmp_path, 4)
    for step in (2, 4):
        reseal(tmp_path / f"step-0000000{step}", damage)
    with (
        pytest.warns(UserWarning, match="passed over"),
        pytest.raises(CheckpointError, match=f"step-00000004: {words}"),
    ):
        go(tmp_path, 8)


def test_something_else_with_a_right_seal_is_passed_over(tmp_path: Path) -> None:
    go(tmp_path, 4)
    content = b"PK\x03\x04 no archive"
    folder = tmp_path / "step-00000004"
    (folder / "state.pt").write_bytes(content)
    (folder / "COMPLETE").write_text(json.dumps({"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}))
    with pytest.warns(UserWarning, match=r"step-00000004 is passed over: state\.pt"):
        assert go(tmp_path, 6)[1].resumed_from == 2


@pytest.mark.parametrize("as_module", [True, False])
def test_weights_that_the_last_step_broke_are_not_saved(tmp_path: Path, as_module: bool) -> None:
    """The loss of step 4 is finite, its gradient is not: only the weights after it show that."""
    net, count = Net(), [0]

    def loss(x: torch.Tensor) -> torch.Tensor:
        count[0] += 1
        value = net.layer(x).pow(2).mean()
        return value if count[0] < 4 else value + (net.layer.weight - net.layer.weight.detach()).abs().sqrt().sum()

    params: Any = net if as_module else list(net.parameters())
    with pytest.raises(Diverged, match=r"is not finite after step 4; the checkpoint .*step-00000002 is kept"):
        fit(loss, params, list(torch.randn(3, 5, 4)), steps=8, lr=1e-2, checkpoint=Checkpoint(tmp_path, every=2))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000002"]
