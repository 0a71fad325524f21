"""How weights of `clean` (p116, p022) are made and measured, on two pictures and with a step or two."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.generate import FenceCleaner, ReflectionRemover, load_cleaner
from binderclip.train.bundled.data import occluded
from binderclip.train.bundled.generative import clean


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two photographs, and settings that take a moment."""
    place = tmp_path / "photographs"
    place.mkdir()
    for row in range(2):
        pixels = np.random.default_rng(row).integers(0, 256, (60, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(place / f"{row}.png")
    small = {"side": 16, "batch": 2, "steps": 2, "lr": 1e-3}
    monkeypatch.setattr(occluded, "DRAWINGS", 3)
    for name in ("MASK_TRAINING", "REMOVE_TRAINING"):
        monkeypatch.setattr(clean, name, small)
    monkeypatch.setattr(clean, "measured_squares", lambda: torch.rand(2, 3, 48, 48))
    return place


def test_weights_against_fences_are_trained_measured_and_written(tmp_path: Path, folder: Path) -> None:
    work = tmp_path / "work"
    made = clean.train_fence(tmp_path / "made", [str(folder)], work=work)
    cleaner, card = load_cleaner(made, of="fence")
    assert card["name"] == "made"
    assert "2 photographs" in card["how"]
    assert set(card["figures"]["unseen"]) == {"iou", "left", "cleaned"}
    assert len(card["limits"]) == 2
    # A second time it goes on from the checkpoints, which hold the last step: the weights are the same.
    again, _ = load_cleaner(clean.train_fence(tmp_path / "again", [str(folder)], work=work))
    assert all(torch.equal(a, b) for a, b in zip(cleaner.parameters(), again.parameters(), strict=True))
    assert json.loads((made / "card.json").read_text(encoding="utf-8"))["kind"] == "fence"


def test_weights_against_reflections_are_trained_measured_and_written(tmp_path: Path, folder: Path) -> None:
    made = clean.train_reflection(tmp_path / "made", [str(folder)], work=tmp_path / "work")
    _, card = load_cleaner(made, of="reflection")
    assert set(card["figures"]["psnr"]) == {"left", "cleaned"}


def test_a_remover_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    net = ReflectionRemover(**{**clean.REMOVER, "width": 4, "heads": 2}).eval()
    clean.start_as_identity(net)
    picture = torch.rand(1, 3, 24, 32)
    apart = net(picture, torch.zeros(1, 1, 24, 32)).transmission - picture
    assert float(apart.abs().mean()) < 0.1


def test_fences_have_soft_edges_and_masks_of_all_they_touch() -> None:
    pictures = torch.full((4, 3, 64, 64), 0.5)
    made = occluded.fenced(pictures, ["lattice"], scale=1.5, empty=0.0, seed=1)
    changed = (made["image"] - made["clean"]).abs().amax(1, keepdim=True) > 0.05
    assert made["image"].shape == (4, 3, 32, 32)
    assert not bool((changed & (made["mask"] == 0)).any())
    free = occluded.fenced(pictures, ["lattice"], scale=1.5, empty=1.0, seed=1)
    assert torch.equal(free["image"], free["clean"])
    assert not bool(free["mask"].any())


def test_where_nothing_is_found_figures_are_those_of_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clean, "measured_squares", lambda: torch.rand(2, 3, 48, 48))
    figures = clean.fence_figures(FenceCleaner(widths=(2,), threshold=1.0))
    assert figures["free"] == {"change": 0.0, "changed": 0.0}
    assert figures["seen"]["iou"] == 0
    assert figures["seen"]["left"] == figures["seen"]["cleaned"]
