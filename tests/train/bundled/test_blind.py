"""How `lite0-quality` is made and measured: a folder with a step or two, and places in folders by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.quality import BlindQuality
from binderclip.train.bundled import blind
from binderclip.train.bundled.blind import folder_figures
from binderclip.train.bundled.data.damaged_folder import TEN_FAULTS, DamagedPicture


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for row in range(2):
        pixels = np.random.default_rng(row).integers(0, 256, (50, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(photographs / f"{row}.png")
    monkeypatch.setattr(blind, "TRAINING", {"views": 2, "steps": 2, "sides": (32, 40)})
    return photographs


def test_a_folder_is_trained_and_written_and_a_second_run_gives_the_same(folder: Path, tmp_path: Path) -> None:
    made = [blind.train_blind(tmp_path / f"made{n}", [str(folder)], work=tmp_path / "work") for n in range(2)]
    cards = [json.loads((each / "card.json").read_text(encoding="utf-8")) for each in made]
    assert cards[0]["name"] == "made0"
    assert "2 pictures of Debian's" in cards[0]["how"]
    assert "figures" not in cards[0]
    first, second = (BlindQuality.from_weights(each / "quality.safetensors").state_dict() for each in made)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    with pytest.raises(UsageError, match="there is no folder nowhere"):
        blind.train_blind(tmp_path / "again", ["nowhere"])
    with pytest.raises(UsageError, match=r"there is no file .*categorization\.rcc"):
        blind.train_blind(tmp_path / "again", [str(folder)], measured=tmp_path)


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
