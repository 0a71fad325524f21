"""Targets: texts, margins, classes, callables."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import UsageError
from binderclip.explain import Saliency, SmoothGrad, attribute, targets


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


def by_hand(model, pixels: torch.Tensor, row: int, column: int) -> torch.Tensor:
    """Patch features in the shared space by open_clip's own parts, in double precision."""
    visual = copy.deepcopy(model.visual).double()
    seen: list[torch.Tensor] = []
    visual.transformer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    mean, std = (
        torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (model.preprocess.mean, model.preprocess.std)
    )
    visual((pixels.double() - mean) / std)
    return visual.ln_post(seen[0])[:, 1 + 4 * row + column] @ visual.proj


def test_a_patch_by_finite_differences_of_a_forward_by_hand(clip_model) -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    text = clip_model.encode_text("a cat", normalize=True).detach().double()[0]

    def score(x: torch.Tensor) -> float:
        return float((F.normalize(by_hand(clip_model, x, 2, 1), dim=-1) @ text).detach())

    target = targets.patch("a cat", 2, 1)
    found = attribute(clip_model, image, target, reduce="sum")
    assert float(found.value) == pytest.approx(score(image), abs=1e-5)
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        i, j = (int(torch.randint(32, (), generator=generator)) for _ in range(2))
        step = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
        step[0, :, i, j] = 1e-5
        slope = (score(image.double() + step) - score(image.double() - step)) / 2e-5
        assert float(found.maps()[0, i, j]) == pytest.approx(slope, rel=1e-2, abs=1e-5)
    # Other methods take it too, and noise does not lose the place.
    smooth = SmoothGrad(3, 0.0)(clip_model, image, target)
    torch.testing.assert_close(smooth.maps(), Saliency()(clip_model, image, target).maps())
    for place in ((4, 0), (0, -1)):
        with pytest.raises(UsageError, match="outside the grid of 4 x 4"):
            Saliency()(clip_model, image, targets.patch("a cat", *place))
    with pytest.raises(UsageError, match="needs an image-text model"):
        Saliency()(clip_model.predictor(["a", "b"]), image, targets.patch("a cat", 0, 0))


def test_a_word_is_its_state_projected_like_the_sentence(clip_model) -> None:
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    final = clip_model.backbone.ln_final
    handle = final.register_forward_hook(lambda module, inputs, output: seen.append(output))
    sentence = clip_model.encode_text("a red cat", normalize=True)
    handle.remove()
    # start, a, red, cat, end: the tower pools at the end.
    states = F.normalize(seen[0][0] @ clip_model.backbone.text_projection, dim=-1)
    torch.testing.assert_close(states[4], sentence[0])
    features = clip_model.encode_image(image, normalize=True)[0]
    for place, word in enumerate(["a", "red", "cat"], 1):
        found = Saliency()(clip_model, image, targets.token("a red cat", word))
        torch.testing.assert_close(found.value[0], (states[place] @ features).detach(), rtol=1e-4, atol=1e-6)
    # A causal tower's word knows what stands before it only.
    one = Saliency()(clip_model, image, targets.token("a red cat", "red")).value
    torch.testing.assert_close(Saliency()(clip_model, image, targets.token("a red dog", "red")).value, one)
    assert not torch.allclose(Saliency()(clip_model, image, targets.token("my red cat", "red")).value, one)
    with pytest.raises(UsageError, match="word 'green' is none of the text's: a, red, cat"):
        Saliency()(clip_model, image, targets.token("a red cat", "green"))
    with pytest.raises(UsageError, match="needs an image-text model"):
        Saliency()(clip_model.predictor(["a", "b"]), image, targets.token("a cat", "cat"))


def test_texts_that_the_model_would_cut_are_refused(clip_model) -> None:
    image = torch.rand(1, 3, 32, 32)
    long = " ".join(["cat"] * 40)
    for target in (long, targets.token(long, "cat"), targets.patch(long, 0, 0), targets.margin("a cat", [long])):
        with pytest.raises(UsageError, match="longer than the 16 tokens"):
            Saliency()(clip_model, image, target)
