"""How `lite0-quality` is made and measured: a folder with a step or two, and places in folders by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.quality import BlindQuality
from binderclip.train.bundled import blind
from binderclip.train.bundled.blind import folder_figures
from binderclip.train.bundled.data import photographs
from binderclip.train.bundled.data.damaged_folder import TEN_FAULTS, DamagedPicture


def noise(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (50, 60, 3), dtype=np.uint8))


def cutout() -> Image.Image:
    """A thing whose upper third is not there."""
    found = noise(3).resize((200, 180)).convert("RGBA")
    found.paste((0, 0, 0, 0), (0, 0, 200, 60))
    return found


@pytest.fixture
def share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One wallpaper, one background, one other photograph and one stamp, where their packages put them."""
    monkeypatch.setattr(blind, "TRAINING", {"views": 2, "steps": 2, "sides": (32, 40)})
    share, other = tmp_path / "share", {"tuxpaint": ("templates/rocks.png",)}
    for module in (photographs, blind):
        monkeypatch.setattr(module, "OTHER_PHOTOGRAPHS", other)
    for n, name in enumerate(("wallpapers/sea.png", "backgrounds/hill.png", "tuxpaint/templates/rocks.png")):
        (share / name).parent.mkdir(parents=True)
        noise(n).save(share / name)
    stamps = share / "tuxpaint" / "stamps" / "animals"
    stamps.mkdir(parents=True)
    for name in ("cat.png", "cat_mirror.png"):
        cutout().save(stamps / name)
    cutout().resize((100, 90)).save(stamps / "small.png")
    Image.new("RGBA", (200, 180), "red").save(stamps / "drawn.png")
    return share


def test_weights_are_trained_and_written_and_a_second_run_gives_the_same(share: Path, tmp_path: Path) -> None:
    made = [blind.train_blind(tmp_path / f"made{n}", share, work=tmp_path / "work") for n in range(2)]
    cards = [json.loads((each / "card.json").read_text(encoding="utf-8")) for each in made]
    assert cards[0]["name"] == "made0"
    assert cards[0]["how"].startswith("4 pictures of Debian's")
    assert " 1 other photographs" in cards[0]["how"]
    assert "figures" not in cards[0]
    first, second = (BlindQuality.from_weights(each / "quality.safetensors").state_dict() for each in made)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    with pytest.raises(UsageError, match=r"there is no file .*categorization\.rcc"):
        blind.train_blind(tmp_path / "again", share, measured=tmp_path)


def test_it_learns_from_wallpapers_other_photographs_and_things(share: Path) -> None:
    *files, thing = blind.training_pictures(share)
    assert [Path(str(path)).name for path in files] == ["sea.png", "hill.png", "rocks.png"]
    assert isinstance(thing, Image.Image)
    pixels, shown = np.asarray(thing), np.asarray(cutout())
    assert (pixels[60:] == shown[60:, :, :3]).all()
    assert (np.ptp(pixels[:60], axis=1) == 0).all()  # a row of the ground has one colour


@pytest.mark.parametrize(
    ("lost", "said"),
    [
        ("wallpapers", r"there is no folder .*wallpapers"),
        ("tuxpaint/templates", r"there is no photograph .*rocks\.png"),
        ("tuxpaint/stamps", r"no photographs of Tux Paint's stamps in .*stamps"),
    ],
)
def test_what_is_not_installed_is_named(share: Path, lost: str, said: str) -> None:
    shutil.rmtree(share / lost)
    with pytest.raises(UsageError, match=said):
        blind.training_pictures(share)


def test_places_of_two_folders_counted_by_hand() -> None:
    whole = [float(n) for n in range(30)]
    picture = Image.new("RGB", (4, 4))

    def ten(scores: list[float]) -> list[tuple[DamagedPicture, float]]:
        rows = range(20, 30)  # the best ten are replaced
        return [
            (DamagedPicture(row, name, 0, picture), score)
            for row, name, score in zip(rows, TEN_FAULTS, scores, strict=True)
        ]

    last = ten([-1.0 - n for n in range(10)])  # all below every whole one
    mixed = ten([-1.0] * 5 + [50.0] * 5)  # five below, five above the twenty that are left
    found = folder_figures(whole, [last, mixed])
    assert found.photographs == 30
    assert found.among_ten == 7.5
    assert found.among_twenty == 7.5
    assert found.all_within == (10 + 30) / 2
    assert found.above == 0.75
    assert found.places["blurred"] == [10, 1]
    assert found.places["washed out"] == [1, 30]
