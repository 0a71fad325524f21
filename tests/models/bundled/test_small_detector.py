"""The bundled weights `small-detector`: their size, their card, what they know, and that their limits are told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score

from binderclip.data import PROCESSING, load_data, matched_spectrum
from binderclip.data.images import to_tensor
from binderclip.models.files.registry import BUNDLED
from binderclip.quality import load_detector
from binderclip.quality.forensics.generators import CopyingAutoencoder, train_autoencoder

FOLDER = BUNDLED / "small-detector"


@pytest.fixture(scope="module")
def photographs() -> torch.Tensor:
    """The middles of the photographs of scikit-image and scikit-learn."""
    found = []
    for sample in load_data("photographs"):
        pixels = to_tensor(sample.image.convert("RGB"))
        top, left = ((extent - 160) // 2 for extent in pixels.shape[1:])
        found.append(pixels[:, top : top + 160, left : left + 160])
    return torch.stack(found)


def test_they_are_small_and_their_card_says_where_they_come_from() -> None:
    assert (FOLDER / "detector.safetensors").stat().st_size < 5e5
    card = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
    assert card["name"] == "small-detector"
    assert card["recipe"] == "binderclip.train.bundled.detector.train_bundled_detector"
    # What it was shipped for: processing of real photographs is no generation.
    assert set(card["false_alarms"]) == {"plain", *PROCESSING}
    assert max(card["false_alarms"].values()) <= 0.15
    for kind, figures in card["unseen"].items():
        assert figures["average_precision"] > 0.8, kind
    # Copies are hardly less sharp than their pictures, and it is not their filter that is found.
    assert all(0.3 < value < 0.7 for value in card["sharpness"].values())
    assert max(card["filtered_back"].values()) < 0.3


@torch.no_grad()
def test_processed_photographs_are_not_called_generated(photographs: torch.Tensor) -> None:
    detector, _ = load_detector("small-detector")
    for name, change in PROCESSING.items():
        logits = torch.cat([detector(change(part)).diff()[:, 0] for part in photographs.split(10)])
        assert int((logits > 0).sum()) <= 3, name  # of twenty


def test_copies_as_sharp_as_their_photographs_look_more_generated(photographs: torch.Tensor) -> None:
    detector, _ = load_detector("small-detector")
    torch.manual_seed(70)
    crops = torch.cat([photographs[:, :, start : start + 32, start : start + 32] for start in (0, 64, 128)])
    maker = train_autoencoder(CopyingAutoencoder("transposed"), crops, steps=150, batch_size=8, lr=5e-3, seed=70)
    with torch.no_grad():
        copies = (matched_spectrum(maker(photographs), photographs) * 255).round() / 255
        logits = torch.cat([detector(part).diff()[:, 0] for part in (photographs, copies)])
    assert roc_auc_score([0] * len(photographs) + [1] * len(copies), logits) > 0.85


def test_the_verb_takes_them_where_none_is_named_and_tells_their_limits(
    command: Callable[..., Any], tmp_path: Path
) -> None:
    for sample in list(load_data("photographs"))[:3]:
        sample.image.convert("RGB").resize((160, 140)).save(tmp_path / f"{sample.key.split('.')[0]}.png")
    done = command("detect", tmp_path, "--json")
    assert done.code == 0
    found = done.json()
    assert len(found["images"]) == 3
    assert found["detector"] == "small-detector (noise)"
    said = " ".join(found["limits"])
    assert "small autoencoders" in said
    assert "nobody has measured it on diffusion models" in said
    assert "left out" in said
    assert "copies as they come" in said
