"""The bundled weights `small-quality`: their size, their card, and that they find what is damaged."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

from binderclip.data import load_data
from binderclip.data.distortions.library import distort
from binderclip.data.images import to_tensor
from binderclip.errors import UsageError
from binderclip.models.files.registry import BUNDLED
from binderclip.quality import ANTONYMS, PromptQuality, QualiCLIP, create_metric

FOLDER = BUNDLED / "small-quality"


def test_they_are_small_and_their_card_says_where_they_come_from() -> None:
    assert (FOLDER / "quality.safetensors").stat().st_size < 1e6
    card = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
    assert card["name"] == "small-quality"
    assert card["recipe"] == "binderclip.train.bundled.quality.train_quality"
    figures = card["figures"]
    for figure in ("level", "damaged"):
        tuned, words = (figures[name][figure] for name in ("small-quality", "small, the same words"))
        assert tuned["mean"] > words["mean"] + 0.1
        assert len(tuned) == 25


@torch.no_grad()
def test_they_put_damaged_photographs_below_whole_ones() -> None:
    pictures = [to_tensor(sample.image.convert("RGB"))[None] for sample in load_data("photographs")][::2]
    whole = torch.cat([F.interpolate(one, (112, 112), mode="bicubic", antialias=True).clamp(0, 1) for one in pictures])
    damaged = [distort(whole, kind, 5) for kind in ("gaussian_noise", "pixelate", "gaussian_blur")]

    def below(metric: PromptQuality) -> float:
        return float(torch.stack([metric(one) < metric(whole) for one in damaged]).float().mean())

    tuned = create_metric("qualiclip")
    assert isinstance(tuned, QualiCLIP)
    assert below(tuned) > 0.75
    assert below(PromptQuality("small", ANTONYMS)) < 0.65


def test_they_belong_to_small_alone() -> None:
    assert create_metric("qualiclip", longest=64).native.longest == 64
    with pytest.raises(UsageError, match="no bundled weights for small-b, only for small"):
        create_metric("qualiclip", model="small-b")
