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


def test_probabilities_are_softmax_among_texts_or_classes(clip_model) -> None:
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    names = ["a cat", "a dog", "a tree"]
    want = (clip_model.scale().item() * cosines(clip_model, images, names)).softmax(dim=1)
    features = clip_model.encode_image(images).detach()

    def found(model, target, outputs: torch.Tensor) -> torch.Tensor:
        return target.bind(model, outputs)(outputs)

    close = {"rtol": 1e-4, "atol": 1e-6}
    torch.testing.assert_close(found(clip_model, targets.probability("a cat", names), features), want[:, 0], **close)
    each = targets.probability(["a cat", "a tree"], names)
    torch.testing.assert_close(found(clip_model, each, features), want[[0, 1], [0, 2]], **close)
    # Each image's own text competes with the others only.
    apart = targets.probability(["a cat", "a dog"], ["a tree"])
    pairs = want[:, [0, 1]].diagonal() / (want[:, [0, 1]].diagonal() + want[:, 2])
    torch.testing.assert_close(found(clip_model, apart, features), pairs, **close)

    predictor = clip_model.predictor(["cat", "dog", "tree"])
    logits = predictor(images).detach()
    chances = logits.softmax(dim=1)
    torch.testing.assert_close(found(predictor, targets.probability(), logits), chances.amax(dim=1))
    torch.testing.assert_close(found(predictor, targets.probability(2), logits), chances[:, 2])
    torch.testing.assert_close(found(predictor, targets.probability(["dog", "cat"]), logits), chances[[0, 1], [1, 0]])
    some = targets.probability("dog", ["tree"])
    torch.testing.assert_close(found(predictor, some, logits), logits[:, 1:].softmax(dim=1)[:, 0])
    with pytest.raises(UsageError, match="the texts it competes with"):
        found(clip_model, targets.probability("a cat"), features)
    with pytest.raises(UsageError, match="the texts it competes with"):
        found(clip_model, targets.probability(1, names), features)
    with pytest.raises(UsageError, match="a list of texts, not one text"):
        found(clip_model, targets.probability("a cat", "a dog"), features)
    with pytest.raises(UsageError, match="3 texts for 2 images"):
        found(clip_model, targets.probability(names, names), features)
