"""`binderclip edges`: maps of all methods, odd pictures, scores against true edges, networks of one's own, mistakes."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from binderclip.vision import DexiNed, save_edge_network

Command = Callable[..., Any]
CORNERS = (12, 9, 44, 30)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dark box on a bright ground in two sizes, its outline as truth, and odd pictures."""
    folder = tmp_path_factory.mktemp("edges")
    for part in ("pictures", "truth", "odd"):
        (folder / part).mkdir()
    for name, size in (("box", (60, 44)), ("wide", (90, 44))):
        picture, truth = Image.new("RGB", size, (230, 220, 200)), Image.new("L", size)
        ImageDraw.Draw(picture).rectangle(CORNERS, fill=(40, 60, 90))
        ImageDraw.Draw(truth).rectangle(CORNERS, outline=255)
        picture.save(folder / "pictures" / f"{name}.png")
        truth.save(folder / "truth" / f"{name}.png")
    Image.new("RGB", (50, 40), (10, 120, 30)).save(folder / "odd" / "flat.png")
    line = np.random.default_rng(0).integers(0, 256, (1, 5000, 3), dtype=np.uint8)
    Image.fromarray(line).save(folder / "odd" / "line.png")
    seen = Image.new("RGBA", (60, 44))
    ImageDraw.Draw(seen).rectangle(CORNERS, fill=(200, 0, 0, 255))
    seen.save(folder / "odd" / "transparent.png")
    (folder / "odd" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.mark.parametrize("method", ["canny", "sobel"])
def test_every_method_draws_the_outline_and_odd_pictures_behave(command: Command, data: Path, method: str) -> None:
    if method == "canny":
        pytest.importorskip("skimage")
    done = command("edges", data / "pictures" / "box.png", data / "odd", "--method", method, "--out", "made", "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert [Path(row["image"]).stem for row in document["images"]] == ["box", "flat", "line", "transparent"]
    assert [Path(row["image"]).name for row in document["skipped"]] == ["broken.png"]
    box, flat, line, transparent = (np.asarray(Image.open(row["result"])) for row in document["images"])
    assert (box.shape, line.shape) == ((44, 60), (1, 5000))
    assert box.dtype == np.uint8
    left, top, right, bottom = CORNERS
    for seen in (box, transparent):  # the middle of each side, within a pixel of where it is drawn
        across = [seen[20, left - 2 : left + 3], seen[20, right - 2 : right + 3], seen[top - 2 : top + 3, 28],
                  seen[bottom - 2 : bottom + 3, 28]]  # fmt: skip
        assert min(int(part.max()) for part in across) > 60
        assert int(seen[18:22, 26:30].max()) < 30
    assert not flat.any()
    assert document["images"][1]["share"] == 0
    with (Path("made") / "edges.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["height"] for row in rows] == ["44", "40", "1", "44"]
    assert float(rows[0]["edges"]) == pytest.approx(document["images"][0]["share"], abs=1e-4)
    assert Image.open(document["sheet"]).width > 500


def test_truth_scores_maps_and_thin_keeps_ridges(command: Command, data: Path) -> None:
    pytest.importorskip("skimage")
    words = ("edges", data / "pictures", "--method", "canny", "--tolerance", "0.02")
    right = ("--truth", data / "truth", "--out", "made")
    done = command(*words, *right, "--json").json()
    assert done["scores"]["ods"] > 0.95
    assert done["scores"]["average_precision"] > 0.9
    thick, thin = (
        command("edges", data / "pictures", "--method", "sobel", *more, "--out", "lines", "--json").json()["images"][0]
        for more in ((), ("--thin",))
    )
    assert 0.01 < thin["share"] < 0.7 * thick["share"]
    shown = command(*words, *right)
    assert "ODS F" in shown.out
    assert f"{done['scores']['ois']:.3f}" in shown.out
    (data / "moved").mkdir()
    for path in (data / "truth").iterdir():
        Image.fromarray(np.roll(np.asarray(Image.open(path)), 6, (0, 1))).save(data / "moved" / path.name)
    assert command(*words, "--truth", data / "moved", "--out", "other", "--json").json()["scores"]["ods"] < 0.3


def test_large_pictures_are_seen_in_windows_and_own_networks_open(command: Command, data: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    folder = save_edge_network(DexiNed(2, between=2), tmp_path / "mine", card={"limits": "nobody measured it"})
    words = (
        "edges",
        data / "pictures",
        "--method",
        "network",
        "--model",
        folder,
        "--window",
        "64",
        "--out",
        tmp_path / "out",
    )
    shown = command(*words)
    assert shown.code == 0, shown.err
    assert "1 picture larger than 64 px: seen in overlapping windows" in shown.out + shown.err
    assert "nobody measured it" in shown.out + shown.err
    assert [row["windows"] for row in command(*words, "--json").json()["images"]] == [1, 2]


def test_mistakes_are_said(command: Command, data: Path, tmp_path: Path) -> None:
    pictures = data / "pictures"
    for words, text in (
        (("--method", "network", "--model", "nothing"), "no folder of an edge network, and no checkpoint, 'nothing'"),
        (("--method", "network"), "--method network needs --model"),
        (("--method", "hed"), "hed"),
        (("--method", "canny", "--model", "mine"), "--model is for --method network"),
        (("--truth", tmp_path / "none"), "--truth: there is no folder"),
        (("--truth", data / "odd"), "no picture of the name 'box'"),
        (("--window", "8"), "--window"),
        (("--threshold", "1.5"), "--threshold"),
        (("--sigma", "nan"), "--sigma"),
        (("--out", pictures), "would be replaced"),
    ):
        done = command("edges", pictures, *words)
        assert done.code == 2, (words, done.err)
        assert text in done.err, (words, done.err)
    assert {path.name for path in pictures.iterdir()} == {"box.png", "wide.png"}
    black = tmp_path / "black"
    shutil.copytree(data / "truth", black)
    for path in black.iterdir():
        Image.new("L", Image.open(path).size).save(path)
    done = command("edges", pictures, "--method", "sobel", "--truth", black, "--out", tmp_path / "out")
    assert done.code != 0
    assert "no true map that could be read has an edge" in done.err
    done = command("edges", data / "odd" / "broken.png", "--method", "sobel", "--out", tmp_path / "out")
    assert done.code == 1


def test_weak_edges_are_shown_lighter_and_flat_pictures_stay_dark(command: Command, tmp_path: Path) -> None:
    weak = np.full((60, 80, 3), 100, dtype=np.uint8)
    weak[:, 40:] = 160  # a step of 0.24: 0.09 after the blur, at a pixel of each side
    weak[:, ::8] += 20
    Image.fromarray(weak).save(tmp_path / "weak.png")
    noise = np.random.default_rng(0).integers(100, 103, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    shown = command("edges", "weak.png", "noise.png", "--threshold", "0.05", "--json", "--out", "a").json()
    kept = command("edges", "weak.png", "noise.png", "--threshold", "0.05", "--absolute", "--json", "--out", "b").json()
    light, dark = (np.asarray(Image.open(each["images"][0]["result"])).astype(float) for each in (shown, kept))
    white = shown["images"][0]["white"]
    assert 0.05 < white < 0.3
    assert light.max() == 255 > 2 * dark.max()
    assert np.abs(light - np.minimum(dark / white, 255)).max() <= 0.5 / white + 0.5
    assert kept["images"][0]["white"] == 1
    assert shown["images"][0]["share"] == kept["images"][0]["share"]
    assert shown["images"][1]["white"] == 0.05
    assert np.asarray(Image.open(shown["images"][1]["result"])).max() < 128
