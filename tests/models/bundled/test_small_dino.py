"""The bundled self-supervised tower: it opens offline, is small, and its patches tell objects apart."""

from __future__ import annotations

import socket

import pytest
import torch
from torch.nn import functional

from binderclip.evaluate import patch_affinity
from binderclip.evaluate.cards.standins import held_out_scenes, value_features
from binderclip.models import VisionModel, load, load_vision
from binderclip.models.files.folders import WEIGHTS, bundled_of, folder_card


@pytest.fixture(scope="module")
def dino() -> VisionModel:
    return load_vision("small-dino")


def test_it_opens_without_a_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    model = load_vision()
    assert model.name == "small-dino"
    assert model.image_size == 128
    assert model.image_tower.patch == 8
    assert not model.training


def test_shapes_and_determinism(dino):
    images = torch.rand(3, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        maps = dino.patch_features(images)
        assert maps.shape == (3, 128, 16, 16)
        assert dino.encode_image(images).shape == (3, 128)
        assert torch.equal(maps, load_vision("small-dino").patch_features(images))
        torch.testing.assert_close(dino.patch_features(images[1:2]), maps[1:2], atol=1e-4, rtol=1e-4)
        assert dino.patch_features(images[:1], size=(96, 160)).shape == (1, 128, 12, 20)


def test_its_convolutions_are_those_of_small_and_not_stored_again(dino):
    folder = bundled_of("vision")["small-dino"]
    assert (folder / WEIGHTS).stat().st_size < 0.7e6
    card = folder_card(folder)
    assert card["parameters"] == sum(value.numel() for value in dino.backbone.state_dict().values())
    assert card["figures"]
    theirs = load("small").backbone.visual.trunk.patch_embed.backbone.state_dict()
    own = dino.backbone.patch_embed.backbone.state_dict()
    assert own
    assert all(torch.equal(value, theirs[name]) for name, value in own.items())


def test_its_patches_tell_objects_apart_as_the_card_says(dino):
    """On other scenes than the card's: well above colours and above the values of `small`."""
    made = held_out_scenes(7, 16, "painted backgrounds")
    with torch.no_grad():
        found = patch_affinity(dino.patch_features(made.images), made.visible)
        values = patch_affinity(value_features(made.images), made.visible)
    colours = patch_affinity(functional.adaptive_avg_pool2d(made.images, 16), made.visible)
    assert found.precision > colours.precision + 0.05
    assert found.precision > values.precision + 0.03
    assert found.among_objects > colours.among_objects + 0.03
    told = dino.card["figures"]["painted backgrounds"]["small-dino"] / 100
    assert found.precision == pytest.approx(told, abs=0.08)


def test_load_says_which_door_opens_it():
    with pytest.raises(Exception, match="load_vision"):
        load("small-dino")
