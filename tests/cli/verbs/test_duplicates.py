"""`binderclip duplicates`: groups, the one that is kept, lists that agree, and inputs that stay as they are."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageEnhance

from binderclip.data import load_data
from binderclip.errors import OutputError
from binderclip.tasks.verbs.duplicates import run
from binderclip.tasks.verbs.duplicates.request import DuplicatesRequest

Command = Callable[..., Any]


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Photographs with copies of some: the same bytes, the same pixels, a small one, a darker one; and a broken one."""
    folder = tmp_path / "album"
    (folder / "below").mkdir(parents=True)
    for sample in load_data("photographs"):
        if (name := sample.key.split(".")[0]) in ("chelsea", "coffee", "rocket", "astronaut"):
            sample.image.convert("RGB").save(folder / f"{name}.png")
    shutil.copy(folder / "coffee.png", folder / "below" / "coffee copy.png")
    cat = Image.open(folder / "chelsea.png")
    cat.save(folder / "cat.bmp")
    cat.resize((220, 146)).save(folder / "below" / "cat small.jpg", quality=60)
    ImageEnhance.Brightness(Image.open(folder / "rocket.png")).enhance(0.7).save(folder / "night.png")
    (folder / "broken.png").write_bytes(b"nothing")
    for path in folder.rglob("*.*"):
        os.utime(path, (1e9, 1e9))
    os.utime(folder / "night.png", (1e8, 1e8))
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def names(document: Any) -> list[list[str]]:
    return [[Path(each["image"]).name for each in group["images"]] for group in document["groups"]]


def test_copies_are_grouped_listed_and_left_where_they_are(command: Command, album: Path) -> None:
    before = contents(album)
    done = command("duplicates", album, "--kept-folder", "once")
    document = json.loads(Path("duplicates/duplicates.json").read_text())
    assert names(document) == [
        ["cat.bmp", "chelsea.png", "cat small.jpg"], ["coffee copy.png", "coffee.png"], ["rocket.png", "night.png"]
    ]  # fmt: skip
    whys = [{pair["why"] for pair in group["pairs"]} for group in document["groups"]]
    assert whys == [{"same pixels", "near"}, {"same bytes"}, {"near"}]
    with Path("duplicates/duplicates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    removed = [row["image"] for row in rows if row["action"] == "remove"]
    assert Path("duplicates/remove.txt").read_text().splitlines() == removed == document["remove"]
    assert document["bytes"] == sum(Path(each).stat().st_size for each in removed)
    assert all((row["similarity"] == "") == (row["action"] == "keep") for row in rows)
    assert min(float(row["similarity"]) for row in rows if row["similarity"]) >= 0.8
    assert "4 pictures of 8 would go" in done.out
    assert "broken.png" in done.err
    # The copied folder has the others, at their places, and nothing has left the album.
    kept = {name: content for name, content in before.items() if str(album / name) not in removed}
    assert contents(Path("once")) == {name: content for name, content in kept.items() if name != "broken.png"}
    assert contents(album) == before
    assert Path("duplicates/report.html").read_text().count("<figure") == len(rows)


@pytest.mark.parametrize(
    ("options", "first"),
    [
        (["--keep", "oldest"], ["cat.bmp", "coffee copy.png", "night.png"]),
        (["--keep", "newest"], ["cat.bmp", "coffee copy.png", "rocket.png"]),
        (["--no-near"], ["coffee copy.png", "cat.bmp"]),
        (["--similarity", "1"], ["coffee copy.png", "cat.bmp"]),
    ],
)
def test_the_rule_says_which_one_is_kept(command: Command, album: Path, options: list[str], first: list[str]) -> None:
    document = command("duplicates", album, *options, "--json").json()
    assert [group[0] for group in names(document)] == first


@pytest.mark.parametrize(("rule", "first"), [("largest", "large.png"), ("sharpest", "chelsea.png")])
def test_a_blurred_enlargement_is_the_largest_and_not_the_sharpest(
    command: Command, album: Path, tmp_path: Path, rule: str, first: str
) -> None:
    cat = Image.open(album / "chelsea.png")
    cat.resize((900, 600), Image.Resampling.BICUBIC).save(tmp_path / "large.png")
    document = command("duplicates", album / "chelsea.png", tmp_path / "large.png", "--keep", rule, "--json").json()
    assert names(document)[0][0] == first


def test_a_second_run_replaces_its_own_lists_and_nothing_else(command: Command, album: Path) -> None:
    command("duplicates", album)
    before = contents(Path("duplicates"))
    command("duplicates", album)
    assert contents(Path("duplicates")) == before
    shutil.rmtree("duplicates")
    Path("duplicates").mkdir()
    Path("duplicates/remove.txt").write_text("mine")
    refused = command("duplicates", album)
    assert (refused.code, "remove.txt" in refused.err) == (2, True)
    assert Path("duplicates/remove.txt").read_text() == "mine"


def test_a_name_of_two_lines_is_no_line_of_the_list(command: Command, album: Path) -> None:
    """Its second line is a picture that stays, and would be removed by who goes through the list."""
    shutil.copy(album / "coffee.png", album / "zoo\nrocket.png")
    done = command("duplicates", album)
    listed = Path("duplicates/remove.txt").read_text().splitlines()
    assert {Path(each).name for each in listed} == {"coffee.png", "chelsea.png", "cat small.jpg", "night.png"}
    assert "remove.txt leaves out 1 picture with a line break in the name" in done.out + done.err
    document = json.loads(Path("duplicates/duplicates.json").read_text())
    assert str(album / "zoo\nrocket.png") in document["remove"]


def test_lists_are_there_where_those_kept_cannot_be_copied(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> int:
        raise OutputError("no space left on device")

    monkeypatch.setattr(run, "copy_kept", full)
    request = DuplicatesRequest(images=[str(album)], out=str(tmp_path / "lists"), kept_folder=str(tmp_path / "once"))
    with pytest.raises(OutputError, match="no space left"):
        run.run(request)
    assert len((tmp_path / "lists" / "remove.txt").read_text().splitlines()) == 4


def test_a_folder_for_those_kept_is_new_and_outside(command: Command, album: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "note.txt").write_text("mine")
    for place, text in ((tmp_path / "full", "has something in it"), (album / "once", "lies inside")):
        refused = command("duplicates", album, "--kept-folder", place)
        assert (refused.code, text in refused.err) == (2, True), refused.err
    assert not (album / "once").exists()


def test_pictures_without_a_copy_and_none_that_can_be_read(command: Command, album: Path, tmp_path: Path) -> None:
    done = command("duplicates", album / "coffee.png")
    assert "No picture is there twice." in done.out
    assert Path("duplicates/remove.txt").read_text() == ""
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"nothing")
    refused = command("duplicates", tmp_path / "bad")
    assert (refused.code, "bad/a.png: not an image" in refused.err) == (1, True), refused.err
