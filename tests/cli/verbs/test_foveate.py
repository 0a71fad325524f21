"""`binderclip foveate`: the blur pixel by pixel, statistics of the texture, fixations, odd pictures, mistakes."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.vision import PoolingRegions

Command = Callable[..., Any]


def noise(path: Path, width: int = 60, height: int = 44, seed: int = 0) -> np.ndarray:
    """A picture of smooth noise, written."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (height // 2, width // 2, 3), dtype=np.uint8))
    picture = small.resize((width, height), Image.Resampling.BICUBIC)
    picture.save(path)
    return np.asarray(picture)


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB")).astype(float)


def mirrored(index: np.ndarray, side: int) -> np.ndarray:
    """Places beyond the border, mirrored at the edge pixels' middles."""
    index = np.abs(index) % (2 * side - 2)
    return np.minimum(index, 2 * side - 2 - index)


def gaussian_at(picture: np.ndarray, row: int, column: int, sigma: float) -> np.ndarray:
    """One pixel of a blurred picture, as the sum over all its neighbours."""
    if sigma == 0:
        return picture[row, column]
    reach = np.arange(-math.ceil(5 * sigma), math.ceil(5 * sigma) + 1)
    weight = np.exp(-0.5 * (reach / sigma) ** 2)
    rows, columns = mirrored(row + reach, picture.shape[0]), mirrored(column + reach, picture.shape[1])
    kernel = weight[:, None] * weight / weight.sum() ** 2
    return (kernel[..., None] * picture[rows[:, None], columns]).sum((0, 1))


def test_every_pixel_has_the_gaussians_of_its_two_rings(command: Command, tmp_path: Path) -> None:
    picture = noise(tmp_path / "noise.png").astype(float)
    words = ("foveate", "noise.png", "--at", "20,30", "--scale", "0.7", "--fovea", "1.5", "--blur", "0.5", "--json")
    done = command(*words)
    assert done.code == 0, done.err
    (row,) = done.json()["images"]
    made = pixels(row["result"])
    assert made.shape == picture.shape
    regions = PoolingRegions((44, 60), 0.7, fixation=(20.5 / 60, 30.5 / 44), fovea_deg=1.5)
    _, radius = regions.ring_masks()
    sigmas = [0.0, *(0.5 * float(r) * 60 / 26 for r in radius[1:])]
    ring_width = 2 * math.asinh(0.35)
    rng = np.random.default_rng(1)
    for y, x in zip(rng.integers(0, 44, 12), rng.integers(0, 60, 12), strict=True):
        # Freeman and Simoncelli's windows over log eccentricity: flat in the middle, cos^2 between two rings.
        degrees = math.hypot(x - 20, y - 30) * 26 / 60
        place = math.log(max(degrees, 1e-9) / 1.5) / ring_width - 0.5
        low = math.floor(place)
        part = math.sin(math.pi * min(max(place - low - 0.25, 0), 0.5)) ** 2
        expected = np.zeros(3)
        for ring, height in ((low, 1 - part), (low + 1, part)):
            expected += height * gaussian_at(picture, y, x, sigmas[min(max(ring + 1, 0), len(sigmas) - 1)])
        np.testing.assert_allclose(made[y, x], expected, atol=0.75)
    # The uniform blur of the whole is another one.
    assert np.abs(made[30, 20] - picture[30, 20]).max() == 0
    assert np.abs(made - picture)[:, 50:].mean() > 20
    near, far = row["rings"][0], row["rings"][-1]
    assert near["similarity"] > 0.9 > 0.3 > far["similarity"]
    assert near["detail"] > 0.5 > 0.1 > far["detail"]


def test_texture_keeps_the_statistics_of_its_regions_and_its_contrast(command: Command, tmp_path: Path) -> None:
    picture = noise(tmp_path / "noise.png", 96, 64)
    words = (
        "foveate",
        "noise.png",
        "--method",
        "texture",
        "--block",
        "1",
        "--slope",
        "100",
        "--scale",
        "0.7",
        "--json",
    )
    made, again = (pixels(command(*words, "--out", out).json()["images"][0]["result"]) for out in ("a", "b"))
    assert np.array_equal(made, again)
    smooth = Image.fromarray(np.linspace(0, 255, 96 * 64).reshape(64, 96).astype(np.uint8))
    smooth.save(tmp_path / "smooth.png")
    noted = command("foveate", "smooth.png", "--method", "texture", "--slope", "100", "--out", "d")
    assert "detail above 1 is of the texture" in noted.out + noted.err
    blurred = command("foveate", "noise.png", "--out", "e")
    assert "detail above 1" not in blurred.out + blurred.err
    other = pixels(command(*words, "--seed", "1", "--out", "c").json()["images"][0]["result"])
    assert np.abs(other - made).max() > 20
    regions = PoolingRegions((64, 96), 0.7, fixation=(48 / 96, 32 / 64), fovea_deg=1.0)
    large = np.flatnonzero((regions.pixels > 80).numpy())[1:]
    assert len(large) > 4
    windows = regions.masks().numpy()[large]
    for window in windows:
        weight = window / window.sum()
        mean, mean_made = ((weight[..., None] * x).sum((0, 1)) for x in (picture, made))
        std, std_made = (
            np.sqrt((weight[..., None] * (x - m) ** 2).sum((0, 1))) for x, m in ((picture, mean), (made, mean_made))
        )
        assert np.abs(mean_made - mean).max() < 20  # windows overlap, and values end at 0 and 255
        assert (std_made / std).min() > 0.5  # a blur would have next to none
    assert np.abs(made - picture).mean() > 25


def test_several_fixations_and_pictures(command: Command, tmp_path: Path) -> None:
    noise(tmp_path / "a.png")
    noise(tmp_path / "b.png", 44, 80, seed=1)
    done = command(
        "foveate", "a.png", "b.png", "--at", "0,0", "--at", "100%,100%", "--at", "50%,10", "--out", "seen", "--json"
    )
    assert done.code == 0, done.err
    document = done.json()
    assert [(row["x"], row["y"]) for row in document["images"]] == [
        (0, 0), (59, 43), (29.5, 10), (0, 0), (43, 79), (21.5, 10),
    ]  # fmt: skip
    names = {f"{name}-{number}{ending}.png" for name in "ab" for number in (1, 2, 3) for ending in ("", "-regions")}
    assert {path.name for path in Path("seen").iterdir()} == {*names, "before-after.png", "table.csv"}
    first, last = (np.abs(pixels(f"seen/a-{n}.png") - pixels("a.png")) for n in (1, 2))
    assert first[:3, :3].max() == 0 == last[-3:, -3:].max()
    assert first[-9:, -9:].mean() > 15 < last[:9, :9].mean()
    with Path("seen/table.csv").open(newline="") as file:
        assert [row["x"] for row in csv.DictReader(file)] == ["0", "59", "29.5", "0", "43", "21.5"]
    # Again into the same folder: everything there is ours.
    assert command("foveate", "a.png", "--out", "seen").code == 0


@pytest.mark.parametrize("method", ["blur", "texture"])
def test_odd_pictures_keep_their_size(command: Command, tmp_path: Path, method: str) -> None:
    Path("odd").mkdir()
    Image.new("L", (40, 30), 77).save("odd/flat.png")
    Image.new("RGBA", (33, 21), (200, 10, 10, 0)).save("odd/clear.png")
    Image.fromarray(np.arange(900, dtype=np.uint16).reshape(1, 900).astype(np.uint8)).save("odd/thin.png")
    Image.new("RGB", (1, 1), (9, 9, 9)).save("odd/one.png")
    Path("odd/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = command("foveate", "odd", "--method", method, "--out", "seen", "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert [Path(entry["image"]).name for entry in document["skipped"]] == ["broken.png"]
    assert len(document["images"]) == 4
    for row in document["images"]:
        assert pixels(row["result"]).shape == pixels(row["image"]).shape
        assert all(math.isfinite(ring["similarity"]) and math.isfinite(ring["detail"]) for ring in row["rings"])
    assert np.abs(pixels("seen/flat.png") - 77).max() <= 1
    assert pixels("seen/clear.png").min() == 255  # on white


def test_larger_pictures_are_reduced_and_degrees_count_pixels(command: Command, tmp_path: Path) -> None:
    noise(tmp_path / "large.png", 120, 80)
    done = command("foveate", "large.png", "--at", "119,79", "--max-side", "60", "--json")
    document = done.json()
    assert document["reduced"] == 1
    assert pixels(document["images"][0]["result"]).shape == (40, 60, 3)
    near, far = (
        command("foveate", "large.png", "--pixels-per-degree", each, "--out", each, "--json").json()["images"][0]
        for each in ("20", "4")
    )
    assert near["rings"][-1]["high"] == 5.0  # 72 pixels to a corner are 3.6 degrees
    assert far["rings"][-1]["high"] == 20.0
    assert near["similarity"] > far["similarity"]


def test_mistakes_are_said(command: Command, tmp_path: Path) -> None:
    noise(tmp_path / "a.png")
    before = Path("a.png").read_bytes()
    for words, message in (
        (["--at", "60,10"], "--at 60,10 is outside the picture of 60 x 44 pixels"),
        (["--at", "-1,10"], "write x,y in pixels"),
        (["--at", "101%,10"], "write x,y in pixels"),
        (["--at", "nan,10"], "write x,y in pixels"),
        (["--at", "cat"], "write x,y in pixels"),
        (["--method", "sketch"], "blur, texture"),
        (["--scale", "0"], "--scale"),
        (["--pixels-per-degree", "0.2"], "300 degrees"),
        (["--out", "."], "a.png is one of the pictures"),
    ):
        done = command("foveate", "a.png", *words)
        assert done.code != 0, words
        assert message in " ".join(done.err.split()), (words, done.err)
    assert Path("a.png").read_bytes() == before
