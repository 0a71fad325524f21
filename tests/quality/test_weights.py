"""Weight files of metrics: what goes in comes out, and what does not belong is refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from binderclip.errors import CheckpointError
from binderclip.quality.weights import kind_of_weights, read_weights, take_over, write_weights


def test_tensors_and_settings_come_back(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w", {"a": torch.arange(3.0)}, "kind", model="m", sets={"q": ("x", "y")}, scale=2.5)
    assert kind_of_weights(path) == "kind"
    found = read_weights(path, "kind", "m", need=("sets", "scale"))
    assert found.settings == {"sets": {"q": ["x", "y"]}, "scale": 2.5}
    own = {"a": torch.zeros(3)}
    take_over(own, found)
    assert own["a"].tolist() == [0, 1, 2]
    for wrong in ({"a": torch.zeros(4)}, {"b": torch.zeros(3)}):
        with pytest.raises(CheckpointError, match="other names or shapes"):
            take_over(wrong, found)


def test_what_does_not_belong_is_refused(tmp_path: Path) -> None:
    path = write_weights(tmp_path / "w", {"a": torch.zeros(1)}, "kind", model="m")
    for arguments, said in (
        (("other", "m"), "holds weights of 'kind', not of other"),
        (("kind", "n"), "fitted to the model 'm', not to 'n'"),
        (("kind",), "fitted to the model 'm', not to None"),
    ):
        with pytest.raises(CheckpointError, match=said):
            read_weights(path, *arguments)
    with pytest.raises(CheckpointError, match="does not say its scale"):
        read_weights(path, "kind", "m", need=("scale",))
    save_file({"a": torch.zeros(1)}, tmp_path / "bare")
    assert kind_of_weights(tmp_path / "bare") == ""
    with pytest.raises(CheckpointError, match="holds weights of None"):
        read_weights(tmp_path / "bare", "kind")
    save_file({"a": torch.zeros(1)}, tmp_path / "odd", {"kind": "kind", "settings": "[1"})
    with pytest.raises(CheckpointError, match="cannot be read as weights of kind"):
        read_weights(tmp_path / "odd", "kind")
    (tmp_path / "text").write_text("no weights")
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        read_weights(tmp_path / "text", "kind")


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(CheckpointError, match="there is no such file"):
        kind_of_weights(tmp_path / "pipe")
