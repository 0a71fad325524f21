"""Levels of input: what a head takes is what the model's own route gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.adapt import GaussianHead, features_for, level_input
from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.models.layers.freezing import frozen


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)) for _ in range(3)]


def test_features_are_the_models_own(pictures: list[Image.Image]) -> None:
    model = load("small")
    torch.testing.assert_close(features_for(GaussianHead, model, pictures), model.encode_image(pictures))
    before = features_for("pre_projection", model, pictures, batch_size=2)
    torch.testing.assert_close(model.image_tower.project(before), model.encode_image(pictures), atol=1e-5, rtol=1e-4)
    pixels = features_for("images", model, pictures)
    assert pixels.shape == (3, 3, 128, 128)
    torch.testing.assert_close(model.encode_image(pixels), model.encode_image(pictures), atol=1e-5, rtol=1e-4)


def test_bad_levels_and_nothing_to_do_are_named(pictures: list[Image.Image]) -> None:
    with pytest.raises(UsageError, match="one of features, pre_projection, images"):
        level_input(load("small"), torch.rand(1, 3, 8, 8), "logits")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="images is empty"):
        features_for("features", load("small"), [])


def test_freezing_is_undone_and_lets_gradients_through() -> None:
    layer = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout())
    layer[0].bias.requires_grad_(False)
    layer.train()
    x = torch.randn(2, 3, requires_grad=True)
    with frozen(layer):
        assert not layer.training
        layer(x).sum().backward()
        assert layer[0].weight.grad is None
    assert x.grad is not None
    assert layer[0].weight.requires_grad
    assert not layer[0].bias.requires_grad
    assert layer[1].training
