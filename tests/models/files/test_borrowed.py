"""Folders that take tensors from another one: the numbers come back exactly, and a changed lender is refused."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from binderclip.errors import CheckpointError
from binderclip.models.files.folders import WEIGHTS, compact_folder, folder_card, read_folder, write_folder


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    """Two tensors that the lender has (exact in half precision), a constant one that it has, and one of its own."""
    torch.manual_seed(0)
    return {
        "stem.weight": torch.randn(40, 40).half().float(),
        "stem.bias": torch.randn(40).half().float(),
        "norm.weight": torch.ones(40),
        "head.weight": torch.randn(64, 40),
    }


@pytest.fixture
def lender(state, tmp_path):
    theirs = {"trunk.w": state["stem.weight"], "trunk.b": state["stem.bias"], "other": state["norm.weight"]}
    return write_folder(tmp_path / "lender", kind="vision", config={}, state=theirs, card={}, dtype="float16")


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_borrowed_tensors_are_exact_and_not_stored(state, lender, tmp_path, dtype):
    folder = write_folder(
        tmp_path / "mine", kind="vision", config={}, state=state, card={}, dtype=dtype, borrow="lender"
    )
    stored = {name for name in load_file(folder / WEIGHTS) if not name.endswith("::scale")}
    assert stored == {"norm.weight", "head.weight"}
    found = read_folder(folder, "vision").state
    assert set(found) == set(state)
    for name in ("stem.weight", "stem.bias", "norm.weight"):
        assert torch.equal(found[name], state[name])
    step = state["head.weight"].abs().amax(1, keepdim=True) / 127
    assert bool(((found["head.weight"] - state["head.weight"]).abs() <= 0.51 * step).all())
    assert folder_card(folder)["parameters"] == sum(value.numel() for value in state.values())


def test_the_lender_may_keep_its_tensors_in_another_precision(state, lender, tmp_path):
    folder = compact_folder(
        write_folder(tmp_path / "whole", kind="vision", config={}, state=state, card={}), tmp_path / "mine",
        borrow="lender",
    )  # fmt: skip
    weights = lender / WEIGHTS
    save_file({name: value.float() for name, value in load_file(weights).items()}, weights)
    assert torch.equal(read_folder(folder, "vision").state["stem.weight"], state["stem.weight"])


def test_the_sign_of_zero_does_not_matter(state, lender, tmp_path):
    """Averaging weights that never change turns -0 into 0."""
    state["stem.weight"][:3] = 0.0
    weights = lender / WEIGHTS
    save_file(
        {**load_file(weights), "trunk.w": torch.cat([torch.full((3, 40), -0.0), state["stem.weight"][3:]])}, weights
    )
    folder = write_folder(tmp_path / "mine", kind="vision", config={}, state=state, card={}, borrow="lender")
    assert "stem.weight" not in load_file(folder / WEIGHTS)
    assert torch.equal(read_folder(folder, "vision").state["stem.weight"], state["stem.weight"])


def test_a_changed_lender_is_refused(state, lender, tmp_path):
    folder = write_folder(tmp_path / "mine", kind="vision", config={}, state=state, card={}, borrow="lender")
    weights = lender / WEIGHTS
    whole = load_file(weights)
    save_file({**whole, "trunk.b": whole["trunk.b"].clone().index_fill_(0, torch.tensor([3]), 0.5)}, weights)
    with pytest.raises(CheckpointError, match="another version of lender"):
        read_folder(folder, "vision")
    save_file({"trunk.w": whole["trunk.w"]}, weights)
    with pytest.raises(CheckpointError, match=r"trunk\.b"):
        read_folder(folder, "vision")
    weights.unlink()
    with pytest.raises(CheckpointError, match="neither in"):
        read_folder(folder, "vision")


def test_a_stranger_has_nothing_to_lend(state, lender, tmp_path):
    with pytest.raises(CheckpointError, match="nothing to borrow"):
        write_folder(tmp_path / "mine", kind="vision", config={}, state={"a": torch.randn(9)}, card={}, borrow="lender")
    assert not (tmp_path / "mine").exists()
