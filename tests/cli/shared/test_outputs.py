"""The rule for files that are written: never what is read, never what is no file, what is not ours only when asked."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from binderclip.errors import UsageError
from binderclip.tasks.files.outputs import VerbCall, calling, named_paths, writable_path, writable_paths
from binderclip.tasks.files.writing import write_csv, write_json
from binderclip.tasks.report.page import Page
from binderclip.tasks.report.sheet import save_picture

Command = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def foreign(place: Path) -> Path:
    """A file that another program made, such as its name says."""
    picture = Image.new("RGB", (40, 30), (9, 120, 60))
    if place.suffix in (".png", ".jpg", ".webp"):
        picture.save(place)
    elif place.suffix == ".safetensors":
        save_file({"x": torch.zeros(2)}, place, {"format": "pt"})
    else:
        place.write_text({".json": '{"mine": 1}', ".csv": "name,value\nmine,1\n"}.get(place.suffix, "<p>mine</p>"))
    return place


def own(place: Path) -> Path:
    """A file that a verb wrote."""
    if place.suffix in (".png", ".jpg", ".webp"):
        return save_picture(Image.new("RGB", (8, 8)), place)
    if place.suffix == ".json":
        write_json({"a": 1}, place)
    elif place.suffix == ".csv":
        write_csv(("image", "score"), [("a", 1)], place)
    else:
        Page("t", "").save(place)
    return place


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.json", "x.csv", "x.html", "x.safetensors"])
def test_what_is_not_ours_is_replaced_only_when_asked(here: Path, name: str) -> None:
    place = foreign(here / name)
    columns = ("image", "score") if place.suffix == ".csv" else ()
    with pytest.raises(UsageError, match=r"is there already and (binderclip did not write it|is another).*--overwrite"):
        writable_path(place, columns=columns)
    with calling(VerbCall(overwrite=True)):
        assert writable_path(place) == place


@pytest.mark.parametrize("name", ["x.png", "x.jpg", "x.webp", "x.json", "x.csv", "x.html"])
def test_what_is_ours_says_so(here: Path, name: str) -> None:
    place = own(here / name)
    assert writable_path(place, columns=("image", "score")) == place
    # A word of it is not enough.
    text = place.read_bytes()
    place.write_bytes(b"# " + text)
    with pytest.raises(UsageError, match="is there already"):
        writable_path(place, columns=("image", "score"))


def test_our_weights_say_so(here: Path) -> None:
    place = here / "x.safetensors"
    save_file({"x": torch.zeros(2)}, place, {"card": '{"a": [1, {"b": 2}]}', "format": "binderclip detector 1"})
    assert writable_path(place) == place


def test_a_table_of_other_columns_is_not_ours(here: Path) -> None:
    own(here / "x.csv")
    assert writable_path("x.csv", columns=("image",))
    with pytest.raises(UsageError, match="is another table than this one"):
        writable_path("x.csv", columns=("image", "logit"))


def test_an_empty_file_holds_nothing_to_be_lost(here: Path) -> None:
    (here / "made-by-mktemp").touch()
    assert writable_path("made-by-mktemp")


def test_never_what_is_read(here: Path) -> None:
    source = own(here / "a.png")  # ours or not
    os.link(source, here / "hard.png")
    (here / "soft.png").symlink_to("a.png")
    for overwrite in (False, True):
        with calling(VerbCall(inputs=(Path("a.png"),), overwrite=overwrite)):
            for name in ("a.png", "./a.png", "hard.png", "soft.png"):
                with pytest.raises(UsageError, match=r"is read here, as a\.png, and would be replaced"):
                    writable_path(name)


def test_never_a_picture_of_a_folder_that_is_read(here: Path) -> None:
    (here / "lab").mkdir()
    foreign(here / "lab" / "a.png")
    foreign(here / "lab" / "a.json")
    with calling(VerbCall(inputs=(Path("lab"),), overwrite=True)):
        with pytest.raises(UsageError, match="one of the pictures of lab"):
            writable_path("lab/a.png")
        assert writable_path("lab/a.json")
        with pytest.raises(UsageError, match="is one of the pictures and would be replaced"):
            writable_paths([here / "lab" / "a.png"], sources=[Path("lab/a.png")])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes devices")
def test_never_a_device(here: Path) -> None:
    os.mknod(here / "null.png", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    with calling(VerbCall(overwrite=True)), pytest.raises(UsageError, match="it is a device, not a file"):
        writable_path("null.png")


def special(here: Path) -> Iterator[tuple[str, str]]:
    (here / "folder").mkdir()
    (here / "loop").symlink_to("loop")
    (here / "dangling").symlink_to("gone")
    os.mkfifo(here / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    yield from {
        "folder": "it is a folder", "none/x": "there is no folder none", "loop": "a link to what is not there",
        "dangling": "a link to what is not there", "pipe": "a named pipe that nobody reads", "socket": "it is a socket",
        "/dev/null": "it is a device", "/dev/full": "it is a device",
    }.items()  # fmt: skip


def test_never_what_is_no_file(here: Path) -> None:
    for name, said in special(here):
        with calling(VerbCall(overwrite=True)), pytest.raises(UsageError, match=said):
            writable_path(name)


def test_what_cannot_say_whose_it_is_belongs_to_a_file_that_can(here: Path) -> None:
    (here / "a.npy").write_bytes(b"numbers")
    with pytest.raises(UsageError, match=r"a\.npy is there already"):
        writable_path("a.npy", beside=here / "a.png")
    own(here / "a.png")
    assert writable_path("a.npy", beside=here / "a.png")


def test_files_are_found_in_all_ways_to_name_them(here: Path) -> None:
    for name in ("a.txt", "b.png", "c"):
        (here / name).touch()
    found = named_paths(["@a.txt", ["b.png", "none"], ("x=c",), 3, None, "a b", "\0", "\udce9", "x" * 9000])
    assert set(found) == {Path("a.txt"), Path("b.png"), Path("c")}


def test_an_earlier_sheet_is_no_picture_of_its_folder(command: Command, here: Path) -> None:
    (here / "pets").mkdir()
    for name in ("a.png", "b.png"):
        foreign(here / "pets" / name)
    words = ("classify", "pets", "-l", "cat,dog", "--picture", "pets/sheet.png", "--json")
    first, again = command(*words), command(*words)
    assert again.code == 0, again.err
    assert [Path(each["image"]).name for each in again.json()["images"]] == ["a.png", "b.png"]
    assert again.json() == first.json()
    assert "left out: pets/sheet.png" in again.err
