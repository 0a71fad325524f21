"""`binderclip quality A --reference B`: pairs by name, distances, sheet and table, mistakes."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio

from binderclip.quality import create_metric

Command = Callable[..., Any]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Originals, and the same with more and more noise; one without original, one of another size, one broken, one
    too small for the network."""
    made, originals = tmp_path / "made", tmp_path / "originals"
    (made / "below").mkdir(parents=True)
    (originals / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for row, name in enumerate(("0", "1", "below/2")):
        pixels = np.kron(rng.integers(40, 215, (6, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(originals / f"{name}.png")
        noise = rng.integers(-20 * row - 1, 20 * row + 2, pixels.shape) if row else 0
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(made / f"{name}.bmp")
    Image.new("RGB", (40, 40)).save(made / "alone.png")
    for name, size in (("odd", (40, 40)), ("tiny", (24, 40))):
        Image.new("RGB", size).save(made / f"{name}.png")
        Image.new("RGB", (40, 48) if name == "odd" else size).save(originals / f"{name}.png")
    (made / "broken.png").write_bytes((originals / "0.png").read_bytes()[:60])
    (originals / "broken.png").write_bytes((originals / "0.png").read_bytes())
    return made, originals


def test_pictures_are_compared_with_those_of_their_name(
    command: Command, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    made, originals = folders
    files = ("--sheet", tmp_path / "sheet.png", "--csv", tmp_path / "table.csv")
    found = command("quality", made, "--reference", originals, "--json", *files).json()
    assert [Path(entry["image"]).stem for entry in found["images"]] == ["2", "1", "0"]
    metric = create_metric("st-lpips")
    for entry in found["images"]:
        assert Path(entry["reference"]).stem == Path(entry["image"]).stem
        one, other = (np.asarray(Image.open(entry[name]).convert("RGB")) for name in ("image", "reference"))
        x, y = (torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255 for pixels in (one, other))
        with torch.no_grad():
            assert entry["distance"] == pytest.approx(float(metric(x, y)), abs=1e-5)
        if entry["psnr"] is None:
            assert (one == other).all()
        else:
            assert entry["psnr"] == pytest.approx(peak_signal_noise_ratio(other, one), abs=1e-3)
    reasons = {Path(entry["image"]).stem: entry["reason"] for entry in found["skipped"]}
    assert set(reasons) == {"alone", "odd", "tiny", "broken"}
    assert "no picture of this name" in reasons["alone"]
    assert "40 x 40 and 40 x 48 pixels" in reasons["odd"]
    assert "too small" in reasons["tiny"]
    with (tmp_path / "table.csv").open(encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert [row["image"] for row in table] == [entry["image"] for entry in found["images"]]
    assert math.isinf(float(table[-1]["PSNR (dB)"]))
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 6 * 200


def test_one_file_is_the_original_of_all_and_large_ones_are_reduced(
    command: Command, folders: tuple[Path, Path]
) -> None:
    made, originals = folders
    done = command(
        "quality", made / "1.bmp", "--reference", originals / "1.png", "--distance", "lpips", "--max-side", 48
    )
    assert done.code == 0
    assert "farthest from the original first by lpips" in " ".join(done.out.split())
    assert "reduced to 48 px to be compared: 1 pair;" in " ".join(done.err.split())
    assert command("quality", made / "odd.png", "--reference", originals).code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--reference", "nowhere"), "there is no file or folder nowhere"),
        (("--reference", ".", "--distance", "ssim"), "--distance 'ssim' is unknown: one of st-lpips, lpips"),
        (("--reference", ".", "--by", "quality"), "--by is about words"),
        (("--reference", ".", "--against", "."), "--reference is about single pictures"),
    ],
)
def test_mistakes_are_named(
    command: Command, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    words: tuple[str, ...], said: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    done = command("quality", folders[0], *words)
    assert done.code == 2
    assert said in " ".join(done.err.split())


def test_two_originals_of_one_name_are_refused(command: Command, folders: tuple[Path, Path]) -> None:
    made, originals = folders
    Image.new("RGB", (40, 40)).save(originals / "0.bmp")
    done = command("quality", made, "--reference", originals)
    assert done.code == 1
    assert "go by one name" in " ".join(done.err.split())
