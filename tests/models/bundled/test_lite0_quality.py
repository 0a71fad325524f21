"""The bundled weights `lite0-quality`: their size, their card, and that damaged photographs come below other ones."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.data import load_data
from binderclip.models.files.registry import BUNDLED
from binderclip.quality import BlindQuality, QualiCLIP, create_metric
from binderclip.train.bundled.data.damaged_folder import TEN_FAULTS

FOLDER = BUNDLED / "lite0-quality"


def test_they_are_small_and_their_card_says_where_they_come_from() -> None:
    assert (FOLDER / "quality.safetensors").stat().st_size < 1e6
    card = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
    assert card["name"] == "lite0-quality"
    assert card["recipe"] == "binderclip.train.bundled.blind.train_blind"
    assert card["figures"]["photographs"] == 200
    assert set(card["figures"]["places"]) == set(TEN_FAULTS)


@pytest.fixture(scope="module")
def whole() -> list[Image.Image]:
    found = [sample.image.convert("RGB") for sample in load_data("photographs")][::2]
    for picture in found:
        picture.thumbnail((256, 256), Image.Resampling.LANCZOS)
    return found


@pytest.fixture(scope="module")
def damaged(whole: list[Image.Image]) -> dict[str, list[Image.Image]]:
    rng = np.random.default_rng(0)
    return {name: [fault(one, n % 2, rng) for n, one in enumerate(whole)] for name, fault in TEN_FAULTS.items()}


@torch.no_grad()
def below(metric: BlindQuality | QualiCLIP, whole: list[Image.Image], bad: list[Image.Image]) -> float:
    """The probability that a damaged picture scores below a whole one, be it of what it may."""
    return float((metric(bad)[:, None] < metric(whole)).float().mean())


def test_damaged_photographs_come_below_other_photographs(
    whole: list[Image.Image], damaged: dict[str, list[Image.Image]]
) -> None:
    blind = create_metric("blind")
    found = {name: below(blind, whole, bad) for name, bad in damaged.items()}
    assert sum(found.values()) / len(found) > 0.8, found
    assert min(found.values()) > 0.5, found
    # Weights that learned from copies of one picture at a time, as `small-quality`, do not.
    ordering = QualiCLIP.from_weights()
    each = [below(ordering, whole, damaged[name]) for name in ("blurred", "too dark", "washed out")]
    assert sum(each) / 3 < sum(found[name] for name in ("blurred", "too dark", "washed out")) / 3 - 0.1


def test_the_family_of_a_strong_fault_is_told(damaged: dict[str, list[Image.Image]]) -> None:
    metric = BlindQuality.from_weights()
    families = {
        "noisy": "noise", "specks": "noise", "out of focus": "blur", "JPEG": "compression", "too dark": "exposure",
        "overexposed": "exposure", "washed out": "contrast",
    }  # fmt: skip
    told = {name: metric.score_files(damaged[name][1::2]).each.argmin(1) for name in families}
    shares = {
        name: float((told[name] == metric.names.index(family)).float().mean()) for name, family in families.items()
    }
    assert sum(shares.values()) / len(shares) > 0.7, shares
