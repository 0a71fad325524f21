"""The card of `small` says what is measured, and the tower attends: what methods on the last attention need."""

from __future__ import annotations

import pytest

from binderclip.data import load_data
from binderclip.evaluate.cards.pair_figures import OTHER_LABELS, _recall
from binderclip.evaluate.cards.standins import BACKGROUNDS, held_out_scenes
from binderclip.evaluate.dense.last_attention import last_attention
from binderclip.models import load


@pytest.mark.parametrize("where", BACKGROUNDS)
def test_the_last_block_of_small_attends_to_objects(where: str) -> None:
    """On scenes of another seed than the card's; a tower whose queries never moved has 1, 1 and 0.5."""
    made = held_out_scenes(77, 16, where, size=256)
    found = last_attention(load("small"), made.images, made.visible, size=256)
    assert found.density > 1.8
    assert found.entropy < 0.96
    assert found.auroc["qq"] > 0.8
    assert found.auroc["vv"] > 0.85


def test_the_card_has_the_recall_that_is_measured() -> None:
    model = load("small")
    told = model.card["figures"]["noto-emoji/test"]
    assert _recall(model, "noto-emoji", "test")["text_to_image"] == pytest.approx(told["text_to_image"], abs=1.1)


def test_other_labels_are_of_no_photograph() -> None:
    assert not set(OTHER_LABELS) & set(load_data("photographs").classes)
    assert len(set(OTHER_LABELS)) == 30
