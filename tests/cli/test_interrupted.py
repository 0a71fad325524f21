"""Ctrl-C in the middle of a verb, in a process of its own: a short message, status 130, and what was done is kept."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from binderclip.data import open_image
from binderclip.generate import BezierPaths, BezierStrokes, load_translator

Program = Callable[..., Any]
MANY = 400


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many pictures, and slices of a cone."""
    root = tmp_path_factory.mktemp("interrupted")
    for name in ("many", "others", "slices"):
        (root / name).mkdir()
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8))
    for number in range(MANY):
        picture.save(root / "many" / f"{number:03}.bmp")
    picture.save(root / "others" / "0.png")
    picture.rotate(180).save(root / "others" / "1.png")
    for number in range(8):
        part = Image.new("L", (48, 48))
        ImageDraw.Draw(part).ellipse((4 + number, 4 + number, 43 - number, 43 - number), fill=255)
        part.save(root / "slices" / f"{number}.png")
    return root


def cut_short(program: Program, folder: Path, until: str, *words: object, said_text: str = "") -> str:
    """Run a verb until there is such a file, or such a line of progress; what it said, in one line."""
    done = program(*words, cwd=folder, until=until, said_text=said_text)
    assert done.code == 130, done.err
    assert not list(folder.glob("**/.*")), "a file that was being written is left"
    return " ".join(done.err.split())


def whole_pictures(pattern: str, folder: Path) -> int:
    """How many pictures there are, each of which opens."""
    paths = sorted(folder.glob(pattern))
    for path in paths:
        open_image(path, mode="RGB")
    return len(paths)


@pytest.mark.parametrize("method", ["strokes", "vq"])
def test_draw_keeps_the_picture(program: Program, folder: Path, tiny_clip: Callable[[int], Path], method: str) -> None:
    models = ("--model", tiny_clip(1), "--judge", tiny_clip(2))
    words = ("draw", "a tree", "--steps", 100_000, "--size", 32, "--method", method, *models)
    said = cut_short(program, folder, f"{method}.png", *words, "--out", f"{method}.png")
    assert f"of 100000 steps: {method}.png is the picture so far" in said
    picture = open_image(folder / f"{method}.png", mode="RGB")
    if method == "strokes":
        drawn = BezierStrokes.from_svg((folder / "strokes.svg").read_text())()[0].detach().permute(1, 2, 0).numpy()
        assert np.abs(255 * drawn - np.asarray(picture)).mean() < 1


def test_vectorize_keeps_the_drawing_that_it_was_at(program: Program, folder: Path) -> None:
    said = cut_short(
        program, folder, "drawn/001.png", "vectorize", "many", "--paths", 2, "--out", "drawn", "--steps", 9
    )
    assert "interrupted: 1 picture done, and the next one so far, in drawn" in said
    assert {path.name for path in (folder / "drawn").iterdir()} == {
        "000.png", "000.svg", "001.png", "001.svg", "table.csv",
    }  # fmt: skip
    assert whole_pictures("drawn/*.png", folder) == 2
    assert len(BezierPaths.from_svg((folder / "drawn" / "001.svg").read_text()).layers) in (1, 2)


def test_edges_keep_maps_and_their_table(program: Program, folder: Path) -> None:
    said = cut_short(program, folder, "maps/003.png", "edges", "many", "--out", "maps")
    count = whole_pictures("maps/0*.png", folder)
    assert 4 <= count < MANY
    rows = json.loads((folder / "maps" / "edges.json").read_text())["images"]
    assert count - 1 <= len(rows) <= count
    assert f"interrupted: {len(rows)} pictures done, in maps" in said
    assert len((folder / "maps" / "edges.csv").read_text().splitlines()) == len(rows) + 1


def test_foveate_keeps_results_and_their_table(program: Program, folder: Path) -> None:
    said = cut_short(program, folder, "seen/003.png", "foveate", "many", "--at", "9,9", "--out", "seen")
    with (folder / "seen" / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert 3 <= len(rows) < MANY
    assert f"interrupted: {len(rows)} results done, in seen" in said
    assert whole_pictures("seen/*.png", folder) >= 2 * len(rows)


def test_clean_keeps_results_and_their_sheet(program: Program, folder: Path, dark_strands: Path) -> None:
    words = ("clean", "many", "--of", "fence", "--model", dark_strands, "--out", "cleaned")
    said = cut_short(program, folder, "cleaned/003.png", *words)
    done = int(said.partition("interrupted: ")[2].partition(" ")[0])
    assert 3 <= done < MANY
    assert f"{done} pictures done, in cleaned" in said
    assert (folder / "cleaned" / "before-after.png").is_file()
    assert whole_pictures("cleaned/*-mask.png", folder) >= done


def test_reconstruct_keeps_the_field_of_the_epochs_that_are_over_or_says_that_it_has_no_surface(
    program: Program, folder: Path
) -> None:
    words = ("reconstruct", "slices", "--spacing", 4, "--method", "field", "--resolution", 32, "--epochs", 10_000)
    said = cut_short(program, folder, "", *words, "--out", "field.ply", said_text="epoch ")
    assert "of 30,000 epochs: " in said
    if "field.ply is the mesh so far" in said:  # how many epochs there are in three seconds is the machine's
        head = (folder / "field.ply").read_bytes().partition(b"end_header")[0].decode()
        assert int(head.partition("element face ")[2].split()[0]) > 0
    else:
        assert "it has no surface yet, and no mesh was written" in said
        assert not (folder / "field.ply").exists()


def test_landscape_keeps_the_points_that_are_done(
    program: Program, folder: Path, tiny_clip: Callable[[int], Path]
) -> None:
    words = ("landscape", tiny_clip(1), "--data", "digits", "--limit", 64, "--points", 101, "--out", "page.html")
    said = cut_short(program, folder, "", *words, said_text="point ")
    done = int(said.partition("interrupted: ")[2].partition(" ")[0].replace(",", ""))
    total = 201 + 101 * 100
    assert 1 <= done < total
    assert f"{done:,} point{'s' * (done > 1)} done, in page.html" in said
    numbers = json.loads((folder / "page.json").read_text())
    points = {(a, 0.0) for a in numbers["curve"]["alphas"]}
    plane = numbers["surface"]
    for a, losses in zip(plane["alphas"], plane["loss"], strict=True):
        points |= {(a, b) for b, loss in zip(plane["betas"], losses, strict=True) if loss is not None}
    assert len(points) == done
    assert numbers["unmeasured"] == total - done
    assert numbers["gaps"] == 0
    assert (0.0, 0.0) in points, "the model itself comes first"
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert f"Interrupted: {total - done:,} points not measured, left blank." in page
    assert page.count("data:image/png") == 2


def test_translate_keeps_the_network_and_pictures(program: Program, folder: Path) -> None:
    small = ("--side", 16, "--width", 4, "--blocks", 3)
    words = ("translate", "many", "others", "--out", "net", "--steps", 400, *small)
    said = cut_short(program, folder, "net/samples.png", *words)
    assert "is kept in net; the same command goes on" in said
    assert 50 <= load_translator(folder / "net")[1]["steps"] < 400
    said = cut_short(program, folder, "made/003.png", "translate", "many", "--model", "net", "--out", "made")
    count = whole_pictures("made/0*.png", folder)
    assert 4 <= count < MANY
    assert f"interrupted: {count} pictures done, in made" in said or f"{count - 1} pictures done, in made" in said
