"""Targets: texts, margins, classes, callables."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.explain import Saliency, targets


def cosines(model, images: torch.Tensor, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        return model.encode_image(images, normalize=True) @ model.encode_text(texts, normalize=True).T


def test_texts_and_margins_are_cosines(clip_model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = cosines(clip_model, images, ["a cat", "a dog", "a tree"])
    saliency = Saliency()
    torch.testing.assert_close(saliency(clip_model, images, "a cat").value, found[:, 0])
    torch.testing.assert_close(saliency(clip_model, images, ["a cat", "a dog"]).value, found.diagonal())
    margin = targets.margin("a cat", ["a dog", "a tree"])
    torch.testing.assert_close(saliency(clip_model, images, margin).value, found[:, 0] - found[:, 1:].amax(dim=1))
    by_hand = saliency(clip_model, images, lambda features: features.norm(dim=-1))
    torch.testing.assert_close(by_hand.value, clip_model.encode_image(images).norm(dim=-1).detach())


def test_a_text_is_encoded_once(clip_model, monkeypatch) -> None:
    calls: list[object] = []
    original = type(clip_model).encode_text
    monkeypatch.setattr(type(clip_model), "encode_text", lambda self, t, **k: calls.append(t) or original(self, t, **k))
    Saliency(tta=10)(clip_model, torch.rand(1, 3, 32, 32), "a cat")
    assert calls == [["a cat"]]


def test_classes_of_a_predictor_are_known_by_name(clip_model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    predictor = clip_model.predictor(["cat", "dog", "tree"])
    logits = predictor(images).detach()
    torch.testing.assert_close(Saliency()(predictor, images, "dog").value, logits[:, 1])
    torch.testing.assert_close(
        Saliency()(predictor, images, targets.text(["dog", "cat"])).value, logits[[0, 1], [1, 0]]
    )
    margin = Saliency()(predictor, images, targets.margin("dog")).value
    torch.testing.assert_close(margin, logits[:, 1] - logits[:, [0, 2]].amax(dim=1))
    with pytest.raises(UsageError, match="'cow' is none of the model's classes: cat, dog, tree"):
        Saliency()(predictor, images, "cow")
    with pytest.raises(UsageError, match="needs others"):
        Saliency()(clip_model, images, targets.margin("dog"))
    with pytest.raises(UsageError, match="3 texts for 2 images"):
        Saliency()(clip_model, images, ["a", "b", "c"])
