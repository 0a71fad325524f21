"""Pictures that nobody means, through every verb that makes a picture of each, and slices that are hardly a solid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from binderclip.data import open_image

Command = Callable[..., Any]
SIZES = {
    "alpha": (40, 30), "clear": (20, 20), "deep": (40, 30), "dot": (1, 1), "plain": (40, 30), "tall": (1, 5000),
    "wide": (5000, 1),
}  # fmt: skip


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One picture of each kind, and a file that is cut."""
    folder = tmp_path_factory.mktemp("odd") / "odd"
    folder.mkdir()
    rng = np.random.default_rng(0)
    ramp = np.tile(np.linspace(0, 1, 40), (30, 1))
    grey = (255 * ramp).round().astype(np.uint8)
    Image.fromarray(np.stack([grey, grey, 255 - grey, grey.T[:30, :1].repeat(40, 1)], -1)).save(folder / "alpha.png")
    Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(folder / "clear.png")
    Image.fromarray((65535 * ramp).round().astype(np.uint16)).save(folder / "deep.png")
    Image.new("RGB", (1, 1), (1, 2, 3)).save(folder / "dot.png")
    Image.new("RGB", (40, 30), (200, 30, 40)).save(folder / "plain.png")
    Image.fromarray(rng.integers(0, 256, (5000, 1, 3), dtype=np.uint8)).save(folder / "tall.png")
    Image.fromarray(rng.integers(0, 256, (1, 5000, 3), dtype=np.uint8)).save(folder / "wide.png")
    (folder / "cut.png").write_bytes((folder / "wide.png").read_bytes()[:300])
    return folder


@pytest.mark.parametrize(
    ("words", "key", "result"),
    [
        (("edges",), "images", "result"),
        (("edges", "--method", "canny", "--thin"), "images", "result"),
        (("foveate", "--max-side", 400), "images", "result"),
        (("foveate", "--method", "texture", "--max-side", 400), "images", "result"),
        (("vectorize", "--paths", 2, "--steps", 5), "pictures", "png"),
    ],
)
def test_each_has_a_result_and_a_cut_file_costs_itself(
    command: Command, odd: Path, words: tuple[object, ...], key: str, result: str
) -> None:
    done = command(words[0], odd, *words[1:], "--out", "made", "--json")
    assert done.code == 0, done.err
    document = done.json()
    assert [Path(entry["image"]).name for entry in document["skipped"]] == ["cut.png"]
    rows = {Path(row["image"]).stem: open_image(row[result], mode="RGB") for row in document[key]}
    assert list(rows) == list(SIZES)
    for name, size in SIZES.items():
        most = max(size) if words[0] == "edges" else 400 if words[0] == "foveate" else 1024
        assert rows[name].size == tuple(min(side, most) for side in size), name
    # 16 bits are all levels of grey: the ramp is one from left to right, not black or white.
    if words[0] == "foveate":
        columns = np.asarray(rows["deep"])[:, :, 0].mean(0)
        assert columns[:8].mean() < 60
        assert 100 < columns[16:24].mean() < 155
        assert columns[-8:].mean() > 195
        assert np.asarray(rows["clear"]).min() == 255  # on white
    flat = np.asarray(rows["plain"]).reshape(-1, 3)
    assert np.ptp(flat.astype(int), axis=0).max() <= 1
    assert words[0] != "edges" or not flat.any()


def test_slices_that_are_hardly_a_solid(command: Command, odd: Path, tmp_path: Path) -> None:
    def stack(name: str, *slices: Any) -> Path:
        (tmp_path / name).mkdir()
        for number, values in enumerate(slices):
            Image.fromarray(values).save(tmp_path / name / f"{number}.png")
        return tmp_path / name

    square = np.zeros((30, 30), dtype=np.uint8)
    square[5:25, 5:25] = 255
    line, column = np.full((1, 5000), 255, np.uint8), np.full((5000, 1), 255, np.uint8)
    volumes = {}
    for name, slices in {
        "two": [square] * 2, "deep": [square.astype(np.uint16) * 257] * 2, "white": [np.full_like(square, 255)] * 2,
        "ends": [square, square, 0 * square], "line": [line] * 2, "column": [column] * 2,
    }.items():  # fmt: skip
        words = ("--spacing", 10, "--resolution", 64, "--out", f"{name}.ply", "--json")
        done = command("reconstruct", stack(name, *slices), *words)
        assert done.code == 0, (name, done.err)
        document = done.json()
        assert document["watertight"], name
        volumes[name] = document["volume"]
    assert volumes["two"] == pytest.approx(20 * 20 * 10, rel=0.01)
    assert volumes["deep"] == pytest.approx(volumes["two"], rel=1e-6)
    assert volumes["white"] == pytest.approx(30 * 30 * 10, rel=0.01)
    assert volumes["ends"] > 1.05 * volumes["two"]
    for name in ("line", "column"):
        assert volumes[name] == pytest.approx(5000 * 10, rel=0.05)
    for name, slices, text in (
        ("one", [square], "at least two slices"), ("empty", [0 * square] * 3, "every slice is empty"),
    ):  # fmt: skip
        done = command("reconstruct", stack(name, *slices), "--spacing", 10, "--out", f"{name}.ply")
        assert done.code == 2
        assert text in done.err
        assert not (tmp_path / f"{name}.ply").exists()


def test_they_are_translated(command: Command, odd: Path, tmp_path: Path) -> None:
    small = ("--side", 16, "--width", 4, "--blocks", 3, "--steps", 2)
    trained = command("translate", odd, odd, "--out", "net", *small, "--json")
    assert trained.code == 0, trained.err
    done = command("translate", odd, "--model", "net", "--out", "made", "--json")
    assert done.code == 0, done.err
    rows = {Path(row["image"]).stem: (row["width"], row["height"]) for row in done.json()["images"]}
    assert list(rows) == list(SIZES)
    assert (rows["wide"], rows["tall"], rows["plain"]) == ((32, 1), (1, 32), (32, 24))
