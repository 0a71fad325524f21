"""Prompts in front of a frozen model (p152, arXiv 2212.07016) against the tower's parts put together by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from binderclip.adapt import PixelPrompt, PromptedModel, TokenPrompt
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel, build

CONFIG: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture
def model() -> ImageTextModel:
    torch.manual_seed(0)
    return build(CONFIG, name="tiny").eval()


def pictures(count: int = 3, side: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_without_prompts_it_is_the_model_at_any_size(model: ImageTextModel) -> None:
    images = pictures()
    torch.testing.assert_close(PromptedModel(model).encode_image(images), model.encode_image(images))
    small = model.image_tower(model.preprocess.at(16)(images))
    torch.testing.assert_close(PromptedModel(model, size=16).encode_image(images), small)
    assert not torch.allclose(small, model.encode_image(images))
    assert not list(PromptedModel(model, size=16).prompts())


@torch.no_grad()
def test_tokens_join_the_patches_before_the_first_norm_as_in_the_papers_code(model: ImageTextModel) -> None:
    prompt = TokenPrompt(3, 32, seed=4)
    images = pictures()
    visual = model.visual
    # open_clip's modules in the order of the paper's forward: patches, class, prompt; positions of the first two alone.
    x = visual.conv1(model.preprocess(images)).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    x = visual.ln_pre(torch.cat([x, prompt.tokens.expand(len(x), -1, -1)], 1))
    wanted = visual.ln_post(visual.transformer(x)[:, 0]) @ visual.proj
    found = PromptedModel(model, tokens=prompt).encode_image(images)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(found, model.encode_image(images), atol=1e-3)


@torch.no_grad()
def test_a_frame_is_added_to_normalised_pixels(model: ImageTextModel) -> None:
    frame = PixelPrompt(32, 4, init="normal", space="normalised", std=model.preprocess.std)
    images = pictures()
    wanted = model.encode_pixels(model.preprocess(images) + frame.pixels * frame.mask)
    found = PromptedModel(model, frame).encode_image(images)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_its_predictor_compares_prompted_pictures_with_texts(model: ImageTextModel) -> None:
    prompted = PromptedModel(model, tokens=2)
    images = pictures().requires_grad_()
    predictor = prompted.predictor(["ant", "bee"], templates="a {}")
    logits = predictor(images)
    image = torch.nn.functional.normalize(prompted.encode_image(images), dim=1)
    text = torch.nn.functional.normalize(model.encode_text(["a ant", "a bee"]), dim=1)
    torch.testing.assert_close(logits, model.scale() * image @ text.T)
    torch.testing.assert_close(prompted.encode_text(["a ant", "a bee"], normalize=True), text)
    assert predictor.classes == ["ant", "bee"]
    logits[:, 0].sum().backward()
    assert images.grad is not None
    assert (images.grad.flatten(1).norm(dim=1) > 0).all()
    assert [p.shape for p in prompted.prompts()] == [(2, 32)]
    assert all(p.grad is not None for p in prompted.prompts())


def test_wrong_prompts_are_refused(model: ImageTextModel) -> None:
    with pytest.raises(UsageError, match="width of 8"):
        PromptedModel(model, tokens=TokenPrompt(2, 8))
    with pytest.raises(UsageError, match="at least one token"):
        TokenPrompt(0, 32)
