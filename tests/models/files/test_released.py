"""Files of others: read without running anything, renamed by a table, and refused with a list of what does not fit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from binderclip.errors import CheckpointError
from binderclip.models.files.released import NameTable, Rename, copy_renamed, load_renamed, read_released, read_tensor

TABLE = NameTable(
    "a layer",
    (
        Rename(r"lin\.(weight|bias)", r"\1"),
        Rename(r"flat_(\w+)", r"\1", lambda value: value[None]),
        Rename("x.*", None),
    ),
)


class Unsafe:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("this must not run",)


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"step": 1}},
        lambda state: {"params": {"lin.bias": torch.zeros(1)}, "params_ema": state},
        lambda state: {f"module.{name}": value for name, value in state.items()},
        lambda state: {"model_state_dict": {f"module.{name}": value for name, value in state.items()}},
    ],
)
def test_weights_are_found_where_training_programs_put_them(wrap, tmp_path: Path) -> None:
    state = {"lin.weight": torch.ones(2, 3), "lin.bias": torch.arange(2.0)}
    found = read_released(saved(wrap(state), tmp_path / "w.pth"))
    assert {name: value.tolist() for name, value in found.items()} == {n: v.tolist() for n, v in state.items()}


def test_another_entry_and_safetensors(tmp_path: Path) -> None:
    state = {"a": torch.ones(2)}
    assert list(
        read_released(saved({"state_dict": {"b": torch.ones(1)}, "tower": state}, tmp_path / "w"), "tower")
    ) == ["a"]
    save_file(state, tmp_path / "w.safetensors")
    assert list(read_released(tmp_path / "w.safetensors")) == ["a"]
    with pytest.raises(CheckpointError, match="has no entry 'tower': it holds a"):
        read_released(tmp_path / "w.safetensors", "tower")


def test_what_holds_no_weights_is_refused_and_nothing_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for content, said in (
        ({"state_dict": {"a": Unsafe()}}, "more than tensors"),
        ({"a": torch.ones(1), "b": 3}, "holds no named tensors: it holds a, b"),
        (torch.ones(2), "holds no named tensors: it holds a Tensor"),
        ({}, "holds no named tensors"),
        ({"a": torch.tensor([1.0, torch.inf])}, "NaN or infinite"),
    ):
        with pytest.raises(CheckpointError, match=said):
            read_released(saved(content, tmp_path / "w.pth"))
    assert capsys.readouterr().out == ""
    with pytest.raises(CheckpointError, match="there is no weight file"):
        read_released(tmp_path / "absent.pth")
    assert read_tensor(saved(torch.arange(3), tmp_path / "t.pt")).tolist() == [0, 1, 2]
    with pytest.raises(CheckpointError, match="not a single tensor"):
        read_tensor(saved({"a": torch.ones(1)}, tmp_path / "t.pt"))


def test_tensors_go_where_the_table_says_in_our_precision(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2).double()
    state = {"lin.weight": torch.ones(2, 3).half(), "flat_bias": torch.tensor(4.0), "x.rest": torch.ones(9)}
    layer.bias = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    assert load_renamed(layer, saved(state, tmp_path / "w.pth"), TABLE) is layer
    assert layer.weight.dtype == torch.float64
    assert layer.weight.sum() == 6
    assert layer.bias.tolist() == [4.0]


def test_everything_that_does_not_fit_is_listed_and_nothing_is_copied() -> None:
    layer = nn.Linear(3, 2)
    before = layer.weight.detach().clone()
    state = {"lin.weight": torch.ones(2, 3), "odd": torch.ones(1), "even": torch.ones(1), "flat_scale": torch.ones(1)}
    said = "w.pth does not fit a layer: 1 missing (bias); 3 unexpected (odd, even, scale)"
    with pytest.raises(CheckpointError, match=re.escape(said) + "$"):
        copy_renamed(layer.state_dict(), state, TABLE, "w.pth")
    with pytest.raises(CheckpointError, match=re.escape("1 of another shape (weight (2, 4) for (2, 3))")):
        copy_renamed(layer.state_dict(), {"lin.weight": torch.ones(2, 4), "lin.bias": torch.ones(2)}, TABLE, "w.pth")
    many = {f"other{n}": torch.ones(1) for n in range(9)}
    with pytest.raises(CheckpointError, match=re.escape("9 unexpected (other0, other1, other2, other3, ...)")):
        copy_renamed(layer.state_dict(), many, TABLE, "w.pth")
    assert torch.equal(layer.weight, before)
