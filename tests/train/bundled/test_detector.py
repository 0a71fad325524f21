"""How `small-detector` is made and measured, on three pictures and with a step or two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.quality import load_detector
from binderclip.quality.forensics.generators import GENERATORS
from binderclip.train.bundled import detector


def test_a_folder_is_trained_measured_and_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photographs = tmp_path / "photographs"
    photographs.mkdir()
    for row in range(3):
        pixels = np.random.default_rng(row).integers(0, 256, (9, 11, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((80, 70)).save(photographs / f"{row}.png")
    for name, value in {
        "SIDES": (64,), "TILE": 48, "TILES": 1, "COPIES": 1, "COPY_STEPS": 2,
        "DETECTOR": {"experts": ["noise"], "channels": [4, 4, 4, 4]},
        "TRAINING": {"steps": 2, "batch_size": 4, "lr": 1e-3},
    }.items():  # fmt: skip
        monkeypatch.setattr(detector, name, value)
    folder = detector.train_bundled_detector(tmp_path / "made", [str(photographs)])
    found, card = load_detector(folder / "detector.safetensors")
    assert card == json.loads((folder / "card.json").read_text(encoding="utf-8"))
    assert (card["name"], card["real"], card["fake"]) == ("made", 3, 3 * len(GENERATORS))
    assert "3 photographs" in card["how"]
    measured = {figures["generator"]: figures for figures in card["check"]["generators"]}
    assert set(measured) == set(card["unseen"]) == set(GENERATORS)
    assert all(figures["seen"] for figures in measured.values())
    assert not any(figures["seen"] for figures in card["unseen"].values())
    assert found.settings["experts"] == ["noise"]
    for folders, said in ((["nowhere"], "there is no folder nowhere"), ([str(folder)], "no picture in")):
        with pytest.raises(UsageError, match=said):
            detector.train_bundled_detector(tmp_path / "again", folders)


def test_copies_are_aligned_take_turns_and_are_kept_in_8_bits() -> None:
    real = [torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(row)) for row in range(4)]
    makers = [detector.CopyingAutoencoder(width=4) for _ in range(2)]
    found = detector.copied(real, makers)
    for row, copy in enumerate(found):
        assert torch.equal(copy, (makers[row % 2](real[row][None])[0] * 255).round() / 255)
    assert not torch.equal(found[0], (makers[1](real[0][None])[0] * 255).round() / 255)


def test_squares_lie_inside_and_small_pictures_give_none() -> None:
    rng = np.random.default_rng(0)
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (150, 1))).convert("RGB")
    found = detector.tiles(ramp, 640, 2, rng)  # smaller than 640: as it is
    assert [tuple(tile.shape) for tile in found] == [(3, 128, 128)] * 2
    assert torch.allclose(found[0].diff(dim=2), torch.tensor(1 / 255), atol=1e-6)
    assert detector.tiles(ramp, 160, 2, rng) == []
