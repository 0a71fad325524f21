"""Room is asked for before long work, and what it made is kept somewhere: on a file system that is really full."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from binderclip.errors import OutputError
from binderclip.files import write_whole
from binderclip.quality import load_detector
from binderclip.tasks.files.results import ask_for_room, save_or_keep
from binderclip.tasks.verbs.detect import train as detect_train

Command = Callable[..., Any]


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 2 MB, or as many as the test says."""
    place = tmp_path / "disk"
    place.mkdir()
    size = f"size={getattr(request, 'param', 2)}m"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place], capture_output=True)
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_room_is_what_can_be_written(small_disk: Path) -> None:
    ask_for_room(small_disk / "x.safetensors", 1_500_000)
    ask_for_room(small_disk / "new" / "folder", 1_500_000)
    with pytest.raises(OutputError, match=r"will take about 3\.0 MB.*No space left.*nothing was begun"):
        ask_for_room(small_disk / "x.safetensors", 3_000_000)
    assert not os.listdir(small_disk)


def test_a_result_without_room_is_kept_elsewhere(
    small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    content = os.urandom(3_000_000)
    with pytest.raises(OutputError, match=r"No space left on device; the result is kept as (\S+)") as told:
        save_or_keep(lambda place: write_whole(place, content), small_disk / "x.bin")
    kept = Path(str(told.value).rpartition(" ")[2])
    assert kept.read_bytes() == content
    assert kept.name == "x.bin"
    assert not os.listdir(small_disk)
    monkeypatch.setattr("tempfile.tempdir", str(small_disk))
    with pytest.raises(OutputError, match="nor can the temporary directory"):
        save_or_keep(lambda place: write_whole(place, content), small_disk / "x.bin")


@pytest.fixture
def fakes(tmp_path: Path) -> Path:
    made = torch.Generator().manual_seed(0)
    for kind in ("0_real", "1_fake/made"):
        (tmp_path / "fakes" / kind).mkdir(parents=True)
        for number in range(12):
            pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=made).numpy()
            Image.fromarray(pixels).save(tmp_path / "fakes" / kind / f"{number}.png")
    return tmp_path / "fakes"


def test_a_detector_without_room_is_not_trained(
    command: Command, small_disk: Path, fakes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("it was trained all the same")

    monkeypatch.setattr(detect_train, "train_detector", never)
    (small_disk / "full").write_bytes(bytes(1_900_000))
    done = command("detect", "--train", fakes, "--steps", 1, "--method", "noise", "--out", small_disk / "d.safetensors")
    assert (done.code, "nothing was begun" in done.err) == (1, True), done.err
    assert os.listdir(small_disk) == ["full"]


@pytest.mark.parametrize("small_disk", [32], indirect=True)  # there is room for a checkpoint, too
def test_a_detector_is_kept_where_the_disk_fills_meanwhile(
    command: Command, small_disk: Path, fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = detect_train.sanity_check

    def filling(*given: Any, **options: Any) -> Any:
        there = os.statvfs(small_disk)
        (small_disk / "full").write_bytes(bytes(there.f_bavail * there.f_frsize - 100_000))
        return check(*given, **options)

    monkeypatch.setattr(detect_train, "sanity_check", filling)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = command("detect", "--train", fakes, "--steps", 1, "--method", "noise", "--out", small_disk / "d.safetensors")
    assert (done.code, "the result is kept as" in done.err) == (1, True), done.err
    kept = Path(done.err.strip().rpartition(" ")[2])
    assert load_detector(kept)[1]["method"] == "noise"


def test_a_full_disk_costs_a_line_and_no_file(
    command: Command, small_disk: Path, pictures: Path, tmp_path: Path
) -> None:
    with (small_disk / "full").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    Image.open(pictures / "coffee.jpg").save(tmp_path / "coffee.png")
    for words, name in [
        (("classify", "coffee.png", "-l", "cup,dog", "--picture"), "a.png"),
        (("segment", "coffee.png", "-l", "cup,dog", "--map"), "b.png"),
        (("explain", "coffee.png", "-l", "a cup", "-o"), "c.png"),
        (("trace", "coffee.png", "--from", "9,9", "--to", "20,20", "--size", "64", "--overlay"), "d.png"),
    ]:
        done = command(*words, small_disk / name)
        said = f"cannot write {small_disk / name}: No space left on device"
        assert (done.code, said in done.err) == (1, True), done.err
        assert os.listdir(small_disk) == ["full"]
