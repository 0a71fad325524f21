"""Files that are not what they say must be refused in a line, and code in them must never run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from binderclip.errors import CheckpointError, UsageError
from binderclip.models.files.checkpoint import (
    check_weights_file,
    check_weights_finite,
    configured,
    guarded,
    read_json_object,
)


class Trap:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_good_files_pass(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    torch.save({"a": torch.zeros(2)}, tmp_path / "a.pt")
    assert check_weights_file(tmp_path / "a.safetensors").name == "a.safetensors"
    assert check_weights_file(str(tmp_path / "a.pt")).name == "a.pt"


@pytest.mark.parametrize("low", [0x80, 0x88, 0x28, 0x90])
def test_any_length_of_the_header_of_safetensors_is_taken(tmp_path: Path, low: int) -> None:
    # The writer pads headers to multiples of 8; metadata of the right length gives every low byte of that length.
    path = tmp_path / "w.safetensors"
    for length in range(1, 400):
        save_file({"a": torch.zeros(2)}, path, metadata={"note": "x" * length})
        if path.read_bytes()[0] == low:
            break
    assert path.read_bytes()[0] == low
    assert check_weights_file(path) == path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_that_holds_a_brace_is_still_a_pickle(tmp_path: Path, protocol: int) -> None:
    # A pickle's second byte is its protocol, so read as a length it is far above any header with a brace behind it.
    path = tmp_path / "w.safetensors"
    for pad in range(12):
        path.write_bytes(pickle.dumps("x" * pad + "{" * 8, protocol=protocol))
        with pytest.raises(CheckpointError, match="Python pickle"):
            check_weights_file(path)


def test_missing_and_empty(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weight file .*x\.pt"):
        check_weights_file(tmp_path / "x.pt")
    (tmp_path / "x.pt").touch()
    with pytest.raises(CheckpointError, match="empty"):
        check_weights_file(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"a": 1}), "Python pickle"),
        (b"<html>not found</html>", "error page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        (b"\x00" * 64, "cut short"),
    ],
)
def test_other_files_under_the_name_of_safetensors(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        check_weights_file(path)
    assert len(str(caught.value)) < 300 + len(str(path))


def test_safetensors_and_torchscript_under_other_names(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match=r"rename it to a\.safetensors"):
        check_weights_file(tmp_path / "a.bin")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(tmp_path / "j.pt"))
    with pytest.raises(CheckpointError, match="TorchScript"):
        check_weights_file(tmp_path / "j.pt")


def test_code_in_a_pickle_does_not_run(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    for name, write in (("zip.pt", torch.save), ("plain.pt", None)):
        path = tmp_path / name
        if write is None:
            path.write_bytes(pickle.dumps({"state_dict": Trap(mark)}, protocol=2))
        else:
            write({"state_dict": Trap(mark)}, path)
        check_weights_file(path)
        with pytest.raises(CheckpointError, match="pickle with more than tensors"):
            guarded(lambda path=path: torch.load(path, weights_only=True), path, "ViT-B-32")
    assert not mark.exists()


def test_damaged_archives(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: len(whole) // 2])
    check_weights_file(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"a\.pt"):
        guarded(lambda: torch.load(tmp_path / "a.pt", weights_only=True), tmp_path / "a.pt", "ViT-B-32")


def test_long_messages_are_cut(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("Missing key(s): " + ", ".join(f"visual.block.{i}.weight" for i in range(500)))

    with pytest.raises(CheckpointError, match=r"does not fit ViT-B-32: Missing key") as caught:
        guarded(fail, "w.pt", "ViT-B-32")
    assert len(str(caught.value)) < 320


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_weights_that_are_no_numbers_are_named(bad: float, dtype: torch.dtype) -> None:
    state = {"fine": torch.ones(3), "count": torch.tensor(7), "b.weight": torch.zeros(5, 4, dtype=dtype)}
    check_weights_finite(state, "w")
    state["b.weight"][2, 3] = bad
    with pytest.raises(CheckpointError, match=r"w: 1 of the 20 numbers of b\.weight are NaN or infinite"):
        check_weights_finite(state, "w")


def test_large_numbers_whose_sum_overflows_are_still_numbers() -> None:
    check_weights_finite({"a": torch.full((4,), 3e38), "b": torch.full((9999,), 60000.0, dtype=torch.float16)}, "w")


def test_a_file_must_hold_an_object_where_one_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text('{"a": {"b": {}}, "other": 3}')
    assert read_json_object(path, "a", "a.b", "a.c", "gone", "gone.too")["other"] == 3
    for text, message in (
        ('{"a": {"b": [1]}}', r"'a\.b' in .*c\.json must be an object \{\.\.\.\}, and is \[1\]"),
        ('{"a": null}', r"'a' in .* is None"),
        ("[]", r"c\.json must be an object"),
        ("[" * 100_000, r"c\.json is not JSON"),
        ("{", r"c\.json is not JSON"),
    ):
        path.write_text(text)
        with pytest.raises(CheckpointError, match=message):
            read_json_object(path, "a", "a.b")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="is not JSON"):
        read_json_object(path)


def test_whatever_a_wrong_value_raises_becomes_one_short_error() -> None:
    for error in (
        IndexError("list index out of range"),
        AssertionError(),
        ZeroDivisionError("x"),
        UsageError("y" * 999),
    ):

        def fail(error: Exception = error) -> None:
            raise error

        with pytest.raises(CheckpointError, match=r"c\.json holds something that cannot be used: \S") as caught:
            configured(fail, "c.json")
        assert len(str(caught.value)) < 320
        if not isinstance(error, UsageError):
            with pytest.raises(CheckpointError, match=r"w\.pt does not fit ViT-B-32"):
                guarded(fail, "w.pt", "ViT-B-32")
