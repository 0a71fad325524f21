"""`binderclip clean`: results, masks and sheet, every kind of picture, what is skipped and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.generate import ReflectionCleaner, save_cleaner

Command = Callable[..., Any]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Smooth pictures of several kinds behind two black bars, one without, and a broken file."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    colours = np.random.default_rng(0).integers(90, 240, (4, 5, 3), dtype=np.uint8)
    free = Image.fromarray(colours).resize((90, 70), Image.Resampling.BICUBIC)
    behind = np.array(free)
    behind[:, 20:24], behind[30:33, :] = 0, 0
    barred = Image.fromarray(behind)
    barred.save(folder / "barred.png")
    free.save(folder / "free.png")
    barred.convert("L").save(folder / "grey.png")
    barred.putalpha(Image.linear_gradient("L").resize((90, 70)))
    barred.save(folder / "through.png")
    Image.new("RGB", (60, 40), (200, 30, 30)).save(folder / "one-colour.png")
    Image.new("RGB", (300, 1), (10, 200, 30)).save(folder / "thin.png")
    (folder / "broken.png").write_bytes((folder / "free.png").read_bytes()[:60])
    return folder


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_fences_are_taken_out_and_all_else_stays(
    command: Command, pictures: Path, dark_strands: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cleaned"
    words = ["clean", pictures, "--of", "fence", "--model", dark_strands, "--out", out]
    done = command(*words, "--json")
    assert done.code == 0, done.err
    document = done.json()
    names = ["barred", "free", "grey", "one-colour", "thin", "through"]
    assert [Path(row["result"]).name for row in document["images"]] == [f"{name}.png" for name in names]
    assert [Path(entry["image"]).name for entry in document["skipped"]] == ["broken.png"]
    assert document["limits"] == ["Knows what is nearly black."]
    rows = dict(zip(names, document["images"], strict=True))
    for name, row in rows.items():
        before, after, mask = (pixels(p) for p in (row["image"], row["result"], row["mask"]))
        assert after.shape[:2] == before.shape[:2] == mask.shape
        if name in ("free", "one-colour", "thin"):
            assert np.array_equal(after, before)
            assert row["painted"] == row["change"] == 0
        else:
            assert row["painted"] == pytest.approx((mask > 0).mean())
            assert row["change"] > 5
            assert bool((mask[:, 20:24] == 255).all())
            assert bool((mask[30:33] == 255).all())
            colours = after[..., :3] if after.ndim == 3 else after
            assert colours[mask > 0].min() > 60  # nothing black is left
    free, barred = (pixels(rows[name]["result"]).astype(int) for name in ("free", "barred"))
    assert np.abs(free - barred).mean() < 1
    through = pixels(rows["through"]["result"])
    assert np.array_equal(through[..., 3], pixels(pictures / "through.png")[..., 3])
    grey = pixels(rows["grey"]["result"])
    assert bool((grey == grey[..., :1]).all())
    with Image.open(out / "before-after.png") as sheet:
        assert sheet.width > 800
    text = command(*words)  # results of an earlier run are made anew
    assert text.code == 0, text.err
    assert "Knows what is nearly black." in text.out + text.err
    assert "3 of 6 results hardly differ" in text.out + text.err


def test_a_reflection_is_taken_out_of_one_picture(command: Command, pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {"width": 4, "encoder_blocks": (1,), "decoder_blocks": (1,), "heads": 2, "hidden": 8, "coverage": 0.5}
    folder = save_cleaner(ReflectionCleaner(**sizes), tmp_path / "mine")
    done = command(
        "clean", pictures / "free.png", pictures / "broken.png", "--of", "reflection", "--model", folder, "--out",
        tmp_path / "out", "--shrink", "2", "--json",
    )  # fmt: skip
    assert done.code == 1  # one that was named could not be used
    row = json.loads(done.out)["images"][0]
    assert row["mask"] is None
    assert row["painted"] is None
    assert pixels(row["result"]).shape == (70, 90, 3)
    assert not (tmp_path / "out" / "free-mask.png").exists()


def test_what_is_wrong_is_said_before_anything_is_written(
    command: Command, pictures: Path, dark_strands: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    cases = [
        (["--of", "reflection", "--model", dark_strands, "--out", out], "removes a fence"),
        (["--of", "fence", "--model", tmp_path / "nowhere", "--out", out], "cannot be read: there is no folder"),
        (["--of", "snow", "--model", dark_strands, "--out", out], "snow"),
        (["--of", "reflection", "--out", out], "no weights against a reflection are bundled"),
        (["--of", "fence", "--model", dark_strands, "--out", pictures], "one of the pictures"),
        (["--of", "fence", "--model", dark_strands, "--out", out, "--shrink", "0"], "shrink"),
    ]  # fmt: skip
    before = {path: path.read_bytes() for path in pictures.iterdir()}
    for words, part in cases:
        done = command("clean", pictures, *words)
        assert done.code != 0
        assert part in done.err
        assert not out.exists()
    assert {path: path.read_bytes() for path in pictures.iterdir()} == before
