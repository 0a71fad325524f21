"""The distance from prompts: by hand from the model's own features, and its angle."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip import load
from binderclip.errors import UsageError
from binderclip.generate import clip_prompt
from binderclip.models import ImageTextModel


@pytest.fixture(scope="module")
def model(tiny_clip: Any) -> ImageTextModel:
    return load(tiny_clip(1))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def test_cosine_and_angle_are_those_of_the_features(model: ImageTextModel, images: torch.Tensor) -> None:
    prompts = ["a cat", "a red house"]
    features, texts = model.encode_image(images), model.encode_text(prompts)
    cosine = F.cosine_similarity(features[:, None], texts[None], dim=-1).double().detach()
    torch.testing.assert_close(
        float(clip_prompt(model, prompts, distance="cosine")(images)), -float(cosine.mean()), atol=1e-5, rtol=0
    )
    half_square = (cosine.acos().square() / 2).mean()
    torch.testing.assert_close(float(clip_prompt(model, prompts)(images)), float(half_square), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        float(clip_prompt(model, prompts, weight=-2.0)(images)), -2 * float(half_square), atol=1e-4, rtol=0
    )


def test_an_unnormalised_input_is_the_pixels_themselves(model: ImageTextModel, images: torch.Tensor) -> None:
    target = model.encode_text(["a cat"])
    expected = F.cosine_similarity(model.encode_pixels(images), target).mean()
    value = clip_prompt(model, "a cat", distance="cosine", normalise_input=False)(images)
    torch.testing.assert_close(value, -expected)
    assert not torch.allclose(value, clip_prompt(model, target, distance="cosine")(images), atol=1e-6)


def test_a_satisfied_prompt_counts_and_gives_no_gradient(model: ImageTextModel, images: torch.Tensor) -> None:
    images.requires_grad_()
    free = clip_prompt(model, "a cat")
    stopped = clip_prompt(model, "a cat", stop=math.pi**2)  # no half square of an angle is larger
    assert torch.equal(stopped(images), free(images))
    (none,) = torch.autograd.grad(stopped(images), images)
    (some,) = torch.autograd.grad(free(images), images)
    assert not bool(none.any())
    assert bool(some.any())
    assert bool(some.isfinite().all())


def test_a_picture_that_is_its_own_target_has_no_distance_and_a_finite_gradient(
    model: ImageTextModel, images: torch.Tensor
) -> None:
    objective = clip_prompt(model, model.encode_image(images[:1]))
    one = images[:1].requires_grad_()
    value = objective(one)
    (gradient,) = torch.autograd.grad(value, one)
    assert float(value) < 1e-5
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize(
    ("target", "setting", "text"),
    [
        ("", {}, "empty"),
        ([], {}, "prompt"),
        (torch.zeros(2, 5), {}, "16"),
        (torch.full((16,), math.nan), {}, "finite"),
        ("a cat", {"weight": math.inf}, "weight"),
        ("a cat", {"stop": math.nan}, "stop"),
        ("a cat", {"distance": "euclidean"}, "distance"),
    ],
)
def test_bad_targets_and_settings_are_refused(
    model: ImageTextModel, target: Any, setting: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        clip_prompt(model, target, **setting)
