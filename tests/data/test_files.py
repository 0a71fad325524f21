"""Folders as anybody may have filled them: nothing in one may stop or hang the rest."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from binderclip.data import list_images, load_folder, open_image
from binderclip.data.files import irregular, list_files, printable, read_file
from binderclip.data.labelled.inspection_folder import InspectionFolder
from binderclip.errors import DataError

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes and links")


@pytest.fixture(autouse=True)
def in_time() -> Iterator[None]:
    """What opens a pipe waits for ever: ten seconds are more than enough."""

    def late(*_: object) -> None:
        raise TimeoutError("still waiting for a named pipe or walking in circles")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """Two good pictures among a pipe, a circle of links and a name that is not UTF-8."""
    root = tmp_path / "odd"
    save(root / "cat/1.png")
    save(root / "dog/2.png")
    os.mkfifo(root / "cat/pipe.png")
    (root / "cat/up").symlink_to("..", target_is_directory=True)
    (root / "dog/itself.png").symlink_to("itself.png")
    try:
        Path(os.fsdecode(bytes(save(root / "dog/x.png").parent) + b"/caf\xe9.png")).write_bytes(b"x")
    except OSError:
        pytest.skip("this file system takes no such names")
    (root / "dog/x.png").unlink()
    return root


def reasons(skipped: list[tuple[str, str]], root: Path) -> dict[str, str]:
    return {str(key).removeprefix(f"{root}/"): reason for key, reason in skipped}


LEFT_OUT = {
    "cat/pipe.png": "is a named pipe, not a file",
    "cat/up": "is a link to a folder above it",
    "dog/caf\\xe9.png": "its name is not UTF-8",
}


def test_a_listing_names_what_it_leaves_out(odd: Path) -> None:
    skipped: list[tuple[str, str]] = []
    assert list_images(odd, skipped=skipped) == [odd / "cat/1.png", odd / "dog/2.png"]
    found = reasons(skipped, odd)
    assert "symbolic links" in found.pop("dog/itself.png")
    assert found == LEFT_OUT
    assert all(key.encode() and reason.encode() for key, reason in skipped)
    assert list_images(odd) == [odd / "cat/1.png", odd / "dog/2.png"]


def test_a_data_set_loses_only_what_is_odd(odd: Path) -> None:
    dataset = load_folder(odd)
    assert dataset.keys == ["cat/1.png", "dog/2.png"]
    found = dict(dataset.skipped)
    assert {key: found[key] for key in LEFT_OUT} == LEFT_OUT
    assert len(list(dataset)) == 2
    assert reasons(InspectionFolder(odd).skipped, odd).items() >= LEFT_OUT.items()


def test_pipes_where_texts_and_tables_should_be(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_text("a cat")
    os.mkfifo(tmp_path / "b.txt")
    os.mkfifo(tmp_path / "captions.csv")
    dataset = load_folder(tmp_path)
    assert dataset.keys == ["a.png"]
    assert dict(dataset.skipped)["b.png"] == "no b.txt beside it"
    assert dict(dataset.skipped)["captions.csv"] == "is a named pipe, not a file"
    with pytest.raises(DataError, match=r"captions\.csv: is a named pipe"):
        load_folder(tmp_path, captions=tmp_path / "captions.csv")
    with pytest.raises(DataError, match=r"b\.txt: is a named pipe"):
        open_image(tmp_path / "b.txt")
    with pytest.raises(DataError, match=r"b\.txt: is a named pipe"):
        read_file(tmp_path / "b.txt")
    assert irregular("/dev/zero") == "a device"


def test_texts_that_are_not_utf8_cost_their_picture(tmp_path: Path) -> None:
    for name in "ab":
        save(tmp_path / f"{name}.png")
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.txt").write_text("a cat")
    dataset = load_folder(tmp_path)
    assert (dataset.captions, dataset.skipped) == (["a cat"], [("a.png", "a.txt is not UTF-8 text")])


def test_links_lead_out_once_and_never_round(tmp_path: Path) -> None:
    save(tmp_path / "far/1.png")
    root = tmp_path / "root"
    root.mkdir()
    for name in "abcdefghi":
        (root / name).mkdir()
        for other in "abcdefghi":
            (root / name / f"to-{other}").symlink_to(root / other, target_is_directory=True)
    (root / "x").symlink_to(tmp_path / "far", target_is_directory=True)
    (root / "y").symlink_to(tmp_path / "far", target_is_directory=True)
    files, skipped = list_files(root)
    # Nine folders that all link to each other have 9! ways through them.
    assert files == ["x/1.png"]
    assert dict(skipped)["y"] == "is a link to the same folder as x"


@pytest.mark.skipif(sys.platform == "darwin" or os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    save(tmp_path / "a/1.png")
    (tmp_path / "b").mkdir(mode=0)
    assert list_files(tmp_path) == (["a/1.png"], [("b", "cannot be read (Permission denied)")])


def test_names_are_printable() -> None:
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    assert printable("café") == "café"
