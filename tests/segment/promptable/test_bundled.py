"""The bundled segmenter: it opens offline, is small, and its masks are as good as its card says."""

from __future__ import annotations

import socket

import pytest
import torch

from binderclip.evaluate import click_figures
from binderclip.evaluate.cards.standins import held_out_scenes
from binderclip.models import load
from binderclip.models.files.folders import WEIGHTS, bundled_of, folder_card
from binderclip.segment import AutomaticMasks, InteractiveSession, Prompts
from binderclip.segment.metrics import mask_iou
from binderclip.segment.promptable import PromptModel, load_promptable

PAINTED = "painted backgrounds"


@pytest.fixture(scope="module")
def sam() -> PromptModel:
    model = load_promptable("small-sam")
    assert isinstance(model, PromptModel)
    return model


def test_it_opens_without_a_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = load_promptable()
    assert model.name == "small-sam"
    assert model.image_size == 128
    assert not model.training


def test_its_convolutions_are_those_of_small_and_not_stored_again(sam):
    folder = bundled_of("promptable")["small-sam"]
    assert (folder / WEIGHTS).stat().st_size < 0.9e6
    card = folder_card(folder)
    assert card["parameters"] == sum(value.numel() for value in sam.backbone.state_dict().values())
    theirs = load("small").backbone.visual.trunk.patch_embed.backbone.state_dict()
    own = sam.backbone.stem.state_dict()
    assert own
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())
    with pytest.raises(Exception, match="load_promptable"):
        load("small-sam")


def test_the_same_prompt_gives_the_same_mask(sam):
    image = held_out_scenes(11, 1, PAINTED).images[0]
    prompts = Prompts.of(points=[(60, 60)])
    first, again = (model.predict(model.encode(image), prompts) for model in (sam, load_promptable("small-sam")))
    assert first.logits.shape == (1, 3, 128, 128)
    assert torch.equal(first.logits, again.logits)


@pytest.mark.parametrize("where", [PAINTED, "photographs behind"])
def test_masks_are_as_good_as_the_card_says(sam, where):
    """On other scenes than the card's. A filled box is what a box prompt has to beat."""
    found = click_figures(sam, held_out_scenes(12, 6, where), clicks=5).summary()
    told = sam.card["figures"][where]
    for clicks in (1, 5):
        assert found[f"clicks/{clicks}"] == pytest.approx(told[f"clicks_{clicks}"] / 100, abs=0.1)
    assert found["clicks/5"] > found["clicks/1"]
    assert found["box"] > found["box_filled"] + 0.04


def test_a_click_outside_takes_away(sam):
    """A negative click on what was wrongly marked lowers the logits there."""
    made = held_out_scenes(12, 6, PAINTED)
    for image, masks in zip(made.images, made.visible, strict=True):
        session = InteractiveSession(sam, image)
        y, x = masks[0].nonzero()[len(masks[0].nonzero()) // 2].tolist()
        wrong = session.click(x + 0.5, y + 0.5) & ~masks[0]
        if int(wrong.sum()) < 40:
            continue
        row, column = wrong.nonzero()[int(wrong.sum()) // 2].tolist()
        before = session.logits[row, column]
        session.click(column + 0.5, row + 0.5, positive=False)
        assert session.logits[row, column] < before
        return
    pytest.fail("no click marked anything wrongly; take other scenes")


def test_all_masks_of_a_scene_hold_its_objects(sam):
    made = held_out_scenes(14, 2, PAINTED)
    best = []
    for image, masks in zip(made.images, made.visible, strict=True):
        found = AutomaticMasks(sam, points_per_side=12)(image)
        assert 2 <= len(found) <= 40
        best += [
            max(float(mask_iou(region, mask)) for region in found.masks) for mask in masks if int(mask.sum()) > 200
        ]
    assert sum(best) / len(best) > 0.5
