"""Where the verbs for pictures put their files, and what they leave out, through the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.tasks.files.inputs import output_names

Command = Callable[..., Any]


def draw(*places: str, side: int = 32) -> None:
    """Pictures in the current folder, each of a colour of its own."""
    for number, place in enumerate(places):
        Path(place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (40 * number, 90, 200 - 30 * number)).save(place)


def test_no_two_pictures_share_a_file(command: Command) -> None:
    places = ("pets/a/x.jpg", "pets/a/x.png", "pets/b/x.png", "pets/y.png")
    draw(*places)
    segmented = command("segment", "pets", "-l", "cat,dog", "--json").json()["images"]
    explained = command("explain", "pets", "-l", "a cat", "--npy", "--out", "maps", "--json").json()["images"]
    inspected = command("anomaly", "pets", "--npy", "--out", "found", "--json").json()["images"]
    for rows, key in [
        (segmented, "overlay"),
        (segmented, "label_map"),
        (explained, "overlay"),
        (explained, "map"),
        (inspected, "overlay"),
    ]:
        files = {Path(row[key]) for row in rows}
        assert len(files) == len(places)
        assert all(file.is_file() for file in files)
    assert sorted(Path(row["overlay"]).name for row in segmented) == [
        "pets-a-x-jpg-overlay.png",
        "pets-a-x-png-overlay.png",
        "pets-b-x-overlay.png",
        "y-overlay.png",
    ]
    assert len(list(Path("found").glob("*.npy"))) == len(places)
    # The maps are those of their own pictures.
    for row in explained:
        alone = command("explain", row["image"], "-l", "a cat", "--npy", "--out", "alone.png", "--json").json()
        assert np.allclose(np.load(alone["map"]), np.load(row["map"]), atol=1e-6)


@pytest.mark.parametrize(
    ("paths", "root", "names"),
    [
        (["a/x.png", "b/y.png"], None, ["x", "y"]),
        (["a/x.png", "b/X.png"], None, ["a-x", "b-X"]),
        (["a/x.png", "b/x.png", "a-x.jpg"], None, ["a-x-png", "b-x", "a-x-jpg"]),
        (["../a/x.png", "a/x.png", "/a/x.png"], None, ["a-x-png", "a-x-png-2", "a-x-png-3"]),
        (["r/a/x.png", "r/a-x.png", "r/a-x-png-2.gif"], "r", ["a-x-png", "a-x-png-3", "a-x-png-2"]),
        (["r/a/x.png", "r/y.png"], "r", ["a-x", "y"]),
    ],
)
def test_names_are_short_where_they_may_be(paths: list[str], root: str | None, names: list[str]) -> None:
    assert output_names([Path(p) for p in paths], None if root is None else Path(root)) == names


def test_no_ending_makes_one_name_of_two() -> None:
    paths = [Path("cat-difference.png"), Path("cat.png"), Path("Sheet.png")]
    endings = ("", "-difference")
    names = output_names(paths, endings=endings, taken=["sheet"])
    files = {f"{name}{ending}".casefold() for name in names for ending in endings}
    assert len(files | {"sheet"}) == 2 * len(paths) + 1
    assert output_names(paths) == ["cat-difference", "cat", "Sheet"]


def test_a_folder_for_files_is_made_or_refused_alike(command: Command) -> None:
    draw("pets/x.png", "pets/y.png")
    Path("taken").write_text("no folder")
    verbs: tuple[tuple[str, ...], ...] = (
        ("segment", "pets", "-l", "cat"),
        ("explain", "pets", "-l", "cat"),
        ("anomaly", "pets"),
        ("adapt", "digits"),
        ("demo",),
    )
    for words in verbs:
        done = command(*words, "--out", "taken")
        assert (done.code, "--out taken is a file: give a folder" in done.err) == (2, True), done.err
    for words in verbs[:3]:
        done = command(*words, "--out", "taken/below")
        assert (done.code, "--out taken/below lies in taken, which is no folder" in done.err) == (2, True), done.err
        assert command(*words, "--out", "new/below").code == 0
        assert any(Path("new/below").iterdir())


def test_tables_that_cannot_be_written_are_named(command: Command) -> None:
    draw("pets/x.png", "pets/y.png")
    Path("found/scores.csv").mkdir(parents=True)
    done = command("anomaly", "pets", "--out", "found")
    assert (done.code, "cannot write found/scores.csv: it is a folder" in done.err) == (2, True), done.err


def test_a_second_run_is_of_the_same_pictures(command: Command) -> None:
    draw("x.png", "more/y.png", "good/z.png")
    for verb, folder in [
        (("segment", ".", "-l", "cat"), "segments"),
        (("explain", ".", "-l", "cat"), "explain"),
        (("anomaly", ".", "--normal", "good", "--shots", 1), "anomalies"),
        (("anomaly", ".", "--out", "more/found"), "more/found"),
    ]:
        first = command(*verb, "--json")
        again = command(*verb, "--json")
        assert "left out" not in first.err
        assert "below" in again.err
        assert f"below {folder}, the output folder" in again.err
        assert again.json()["images"] == first.json()["images"]
        for path in Path(folder).glob("*"):
            path.unlink()
    # Who names the folder itself, or a file in it, gets it.
    draw("segments/x.png", "segments/y.png")
    assert len(command("segment", "segments", "-l", "cat", "--json").json()["images"]) == 2
    assert "image" in command("segment", "segments/x.png", "-l", "cat", "--json").json()


def test_a_folder_of_nothing_but_results_has_no_images(command: Command) -> None:
    draw("all/found/x.png")
    for words in (("segment", "all", "-l", "cat"), ("explain", "all", "-l", "cat"), ("anomaly", "all")):
        done = command(*words, "--out", "all/found")
        assert (done.code, "no images in all" in done.err) == (1, True), done.err
        assert "left out: 1 image below all/found, the output folder" in done.err
