"""The bundled weights `small-fence`: size, card, and what they do to photographs that taught them nothing."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

from binderclip import load
from binderclip.data import load_packs
from binderclip.data.images import to_tensor
from binderclip.errors import UsageError
from binderclip.generate import BUNDLED_CLEANERS, FenceCleaner, load_cleaner
from binderclip.models.files.registry import BUNDLED
from binderclip.train.bundled.generative.clean import fence_figures

FOLDER = BUNDLED / "small-fence"


@pytest.fixture(scope="module")
def cleaner() -> FenceCleaner:
    opened, card = load_cleaner()
    assert card["name"] == "small-fence"
    assert isinstance(opened, FenceCleaner)
    return opened


def test_they_are_small_and_their_card_says_where_they_come_from() -> None:
    assert (FOLDER / "weights.safetensors").stat().st_size < 1e6
    card = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
    assert card["recipe"] == "binderclip.train.bundled.generative.clean.train_fence"
    assert "small-fence" in (BUNDLED / "NOTICE.txt").read_text(encoding="utf-8")
    assert BUNDLED_CLEANERS == {"fence": "small-fence"}
    with pytest.raises(UsageError, match=r"load_cleaner\('small-fence'\) opens it"):
        load("small-fence")
    with pytest.raises(UsageError, match="no weights against a reflection are bundled"):
        load_cleaner(of="reflection")


def test_they_reach_what_was_asked_of_bundled_weights_before_they_were_trained(cleaner: FenceCleaner) -> None:
    figures = fence_figures(cleaner)
    assert figures["unseen"]["iou"] >= 0.6
    for kind in ("seen", "unseen"):
        assert figures[kind]["cleaned"] >= figures[kind]["left"] + 3
    assert figures["free"]["changed"] <= 0.1
    stored = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))["figures"]
    for kind, values in figures.items():
        assert values == pytest.approx(stored[kind], abs=0.05)


def test_drawings_are_hardly_ever_taken_for_fences(cleaner: FenceCleaner) -> None:
    data = load_packs(split="test")
    drawings = torch.stack([to_tensor(data[row].image.convert("RGB")) for row in range(0, 1200, 30)])
    large = F.interpolate(drawings, (192, 192), mode="bicubic").clamp(0, 1)
    changed = [not torch.equal(cleaner.clean(one).image, one) for one in large]
    assert sum(changed) <= 4  # of 40
