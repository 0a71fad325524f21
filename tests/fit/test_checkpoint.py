"""Checkpoints: whole or not there, whatever happens while one is written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch

from binderclip.errors import CheckpointError
from binderclip.fit import Checkpoint


def state(value: float) -> dict:
    return {"module": {"weight": torch.full((64, 64), value)}, "note": "x"}


def test_round_trip_and_only_the_newest_stay(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "c", keep=2)
    assert checkpoint.latest() is None
    for step in (10, 20, 30):
        checkpoint.save(step, state(step))
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["step-00000020", "step-00000030"]
    found = checkpoint.latest()
    assert found["step"] == 30
    assert torch.equal(found["module"]["weight"], torch.full((64, 64), 30.0))


@pytest.mark.parametrize("damage", ["truncate", "flip", "no seal", "half a seal", "no state"])
def test_a_damaged_one_is_passed_over(tmp_path: Path, damage: str) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(1, state(1))
    newest = checkpoint.save(2, state(2))
    file, seal = newest / "state.pt", newest / "COMPLETE"
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        file.write_bytes(content[:-100])
    elif damage == "flip":
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif damage == "no seal":
        seal.unlink()
    elif damage == "half a seal":
        seal.write_text(seal.read_text()[:20])
    else:
        file.unlink()
    with pytest.warns(UserWarning, match="step-00000002 is passed over"):
        assert checkpoint.latest()["step"] == 1


def test_nothing_whole_is_an_error(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    (checkpoint.save(1, state(1)) / "COMPLETE").unlink()
    with pytest.warns(UserWarning, match="passed over"), pytest.raises(CheckpointError, match="no checkpoint in"):
        checkpoint.latest()


def test_a_full_disk_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(1, state(1))

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"step 2.*disk is full.*step-00000001 is kept"):
        checkpoint.save(2, state(2))
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert checkpoint.latest()["step"] == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_short_write_of_torch_is_called_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = Checkpoint(tmp_path)
    checkpoint.save(1, state(1))
    # The state is the one file that is written through its handle.
    real = open
    monkeypatch.setattr(Path, "open", lambda path, mode: real("/dev/full" if mode == "wb" else path, mode))
    with pytest.raises(CheckpointError, match="disk is full"):
        checkpoint.save(2, state(2))
    monkeypatch.undo()
    assert checkpoint.latest()["step"] == 1


def test_other_settings_are_named(tmp_path: Path) -> None:
    Checkpoint(tmp_path, identity={"lr": 0.1, "data": "a"}).save(1, state(1))
    with pytest.raises(CheckpointError, match=r"lr = 0.1, now it is 0.2"):
        Checkpoint(tmp_path, identity={"lr": 0.2, "data": "a"}).latest()


def test_a_fresh_start_clears_the_old(tmp_path: Path) -> None:
    Checkpoint(tmp_path).save(1, state(1))
    (tmp_path / ".writing-step-00000002").mkdir()
    (tmp_path / ".replaced-step-00000001").mkdir()
    assert Checkpoint(tmp_path, resume=False).prepare() is None
    assert not list(tmp_path.iterdir())


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    checkpoint = Checkpoint(tmp_path / "c")
    folder = checkpoint.save(1, state(1))
    torch.save({"step": 1, "module": Trap()}, folder / "state.pt")
    import hashlib

    content = (folder / "state.pt").read_bytes()
    (folder / "COMPLETE").write_text(json.dumps({"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}))
    with pytest.raises(CheckpointError, match="more than tensors"):
        checkpoint.latest()
    assert not (tmp_path / "ran").exists()
