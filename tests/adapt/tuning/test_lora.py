"""Low-rank tuning (p142) against loops by hand through open_clip's own forward, and every head's promises."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.base import clone
from torch import Tensor

from binderclip.adapt import GLAD, LoRATuning, features_for, load_head, save_head
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel, build, lora_
from binderclip.models.layers.freezing import frozen

NAMES = ["cat", "dog"]
TEXTS = ["a photo of a cat.", "a photo of a dog."]


@pytest.fixture(scope="module")
def model() -> ImageTextModel:
    torch.manual_seed(0)
    vision = {"layers": 3, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 16}
    text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    return build({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}, name="tiny").eval()


def toy(n: int = 4) -> tuple[Tensor, np.ndarray]:
    """Pictures whose left or right half is bright."""
    x = 0.6 * torch.rand(2 * n, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    x[:n, :, :, :8] += 0.4
    x[n:, :, :, 8:] += 0.4
    return x, np.repeat(NAMES, n)


def by_hand(model: ImageTextModel, blocks: Any, steps: int, combine: Any, **where: Any) -> tuple[Tensor, Tensor]:
    """AdamW on the factors, with whole forward passes of the library; text features and logits at the end."""
    x, targets = toy()[0], torch.arange(2).repeat_interleave(4)
    torch.manual_seed(7)
    with frozen(model), lora_(model, 2, blocks=blocks, **{"use_rslora": True} | where) as lora:
        parameters = list(lora.parameters())

        def logits() -> tuple[Tensor, Tensor]:
            rows = model.encode_text(TEXTS, normalize=True)
            return rows, 10.0 * model.encode_image(x, normalize=True) @ rows.T

        def gradient() -> Tensor:
            found = torch.autograd.grad(F.cross_entropy(logits()[1], targets), parameters)
            return torch.cat([g.flatten() for g in found])

        optimizer = torch.optim.AdamW(parameters, lr=0.02, weight_decay=0.01)
        for step in range(steps):
            floor = 1e-6 / 0.02
            optimizer.param_groups[0]["lr"] = 0.02 * (
                floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * step / steps))
            )
            g = gradient()
            if combine is not None:
                start = lora.vector()
                lora.load_vector(start + 0.05 * g / g.norm())
                g = combine(g, gradient())
                lora.load_vector(start)
            for p, part in zip(parameters, g.split([p.numel() for p in parameters]), strict=True):
                p.grad = part.view_as(p).clone()
            optimizer.step()
        rows, scores = logits()
    return rows.detach(), scores.detach()


def steer(g: Tensor, s: Tensor) -> Tensor:
    u = s / s.norm()
    along = (g @ u) * u
    bent = g - along if g @ u < 0 else along + 0.5 * (g - along)
    return bent * g.norm() / bent.norm()


SETTINGS = {"steps": 6, "lr": 0.02, "lora_dropout": 0.0, "scale": 10.0, "seed": 7}


@pytest.mark.parametrize("blocks", [None, 1])
@pytest.mark.parametrize(("kind", "combine"), [(LoRATuning, None), (GLAD, steer)])
def test_training_is_the_loop_by_hand(model: ImageTextModel, blocks: Any, kind: Any, combine: Any) -> None:
    x, y = toy()
    head = kind(model, blocks=blocks, **SETTINGS).fit(x, y)
    rows, scores = by_hand(model, blocks, 6, combine)
    torch.testing.assert_close(head.coef_, rows, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(head.predict_logits(x), scores, rtol=1e-3, atol=3e-3)
    np.testing.assert_allclose(head.from_states(head.states(x)), scores, rtol=1e-3, atol=3e-3)
    plain, untrained = by_hand(model, blocks, 0, None)
    assert np.abs(head.predict_logits(x) - untrained.numpy()).max() > 0.3
    assert not torch.allclose(head.coef_, plain, atol=1e-2)


@pytest.mark.parametrize(
    "where", [{"target_modules": ("v",)}, {"target_modules": ("q", "out"), "lora_alpha": 4.0}, {"use_rslora": False}]
)
def test_the_factors_stand_where_and_as_strongly_as_asked_for(model: ImageTextModel, where: dict[str, Any]) -> None:
    x, y = toy()
    head = LoRATuning(model, blocks=1, **SETTINGS, **where).fit(x, y)
    np.testing.assert_allclose(head.predict_logits(x), by_hand(model, 1, 6, None, **where)[1], rtol=1e-3, atol=3e-3)
    plain = LoRATuning(model, blocks=1, **SETTINGS).fit(x, y)
    assert np.abs(head.predict_logits(x) - plain.predict_logits(x)).max() > 0.01


def test_the_rules_differ(model: ImageTextModel) -> None:
    x, y = toy()
    logits = [GLAD(model, rule=r, **SETTINGS).fit(x, y).predict_logits(x) for r in ("steer", "sam", "blend")]
    logits.append(LoRATuning(model, **SETTINGS).fit(x, y).predict_logits(x))
    for i, a in enumerate(logits):
        assert all(np.abs(a - b).max() > 1e-4 for b in logits[:i])
    still = GLAD(model, rule="steer", rho=0.0, **SETTINGS).fit(x, y).predict_logits(x)
    np.testing.assert_allclose(still, logits[-1], rtol=1e-3, atol=3e-3)
    cosines = [GLAD(model, rho=rho, **SETTINGS).fit(x, y).cosine_ for rho in (0.0, 0.05, 0.5)]
    assert cosines[0] == pytest.approx(1, abs=1e-4)
    assert cosines[0] > cosines[1] > cosines[2]
    with pytest.raises(UsageError, match="rule 'swap' is unknown"):
        GLAD(model, rule="swap", **SETTINGS).fit(x, y)


@pytest.mark.parametrize("kind", [LoRATuning, GLAD])
def test_no_step_is_the_zero_shot_classifier(model: ImageTextModel, kind: Any) -> None:
    x, y = toy()
    head = kind(model, steps=0, names=["black_cat", "dog"]).fit(x, y)
    with torch.no_grad():
        rows = model.encode_text(["a photo of a black cat.", "a photo of a dog."], normalize=True)
        expected = model.scale().item() * model.encode_image(x, normalize=True) @ rows.T
    np.testing.assert_allclose(head.predict_logits(x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [LoRATuning, GLAD])
def test_it_is_an_estimator_that_can_be_saved_and_leaves_the_model_alone(
    model: ImageTextModel, kind: Any, tmp_path: Path
) -> None:
    x, y = toy()
    before = [(name, p.detach().clone()) for name, p in model.named_parameters()]
    views = torch.stack([x, x.flip(-2)], dim=1)
    head = kind(model, steps=4, lr=0.02, batch_size=5, blocks=1).fit(views, y)
    logits = head.predict_logits(x)
    assert all(
        name == other and torch.equal(p, value) and p.requires_grad and p.grad is None
        for (name, p), (other, value) in zip(model.named_parameters(), before, strict=True)
    )
    again = clone(head)
    assert again.model is model
    np.testing.assert_array_equal(again.fit(views, y).predict_logits(x), logits)
    save_head(head, tmp_path / "head", model="tiny")
    loaded = load_head(tmp_path / "head", model=model)
    np.testing.assert_array_equal(loaded.predict_logits(x), logits)
    assert loaded.score(x, y) == head.score(x, y)
    merged = head.export()
    shown = merged.classify(x, NAMES, templates=head.template).logits / merged.scale() * head.scale_
    np.testing.assert_allclose(shown.detach(), logits, rtol=1e-3, atol=2e-3)
    assert np.abs(logits - kind(model, steps=0).fit(x, y).predict_logits(x)).max() > 1e-2
    new = head.classifier_for({"c": "car", "t": "tree"})
    assert new.classes_.tolist() == ["c", "t"]
    texts = merged.encode_text(["a photo of a car.", "a photo of a tree."], normalize=True)
    expected = head.scale_ * merged.encode_image(x, normalize=True) @ texts.T
    np.testing.assert_allclose(new.predict_logits(x), expected.detach(), rtol=1e-3, atol=2e-3)
    np.testing.assert_array_equal(head.predict_logits(x), logits)


def test_pixels_have_gradients(model: ImageTextModel) -> None:
    x, y = toy()
    head = LoRATuning(model, steps=3, lr=0.02).fit(features_for(LoRATuning, model, list(x)), y)
    images = x[:2].clone().requires_grad_()
    predictor = head.predictor(model)
    ours = torch.autograd.grad(predictor(images)[:, 0].sum(), images)[0]
    merged = head.export()
    theirs = torch.autograd.grad(
        (head.scale_ * merged.encode_image(images, normalize=True) @ head.coef_[0]).sum(), images
    )[0]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)


def test_a_failure_leaves_no_adapter(model: ImageTextModel, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = toy()
    monkeypatch.setattr(LoRATuning, "_adopt", lambda self, module: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        LoRATuning(model, steps=1).fit(x, y)
    assert not any("parametrizations" in name for name, _ in model.named_parameters())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"r": 0}, "r must be at least 1"),
        ({"blocks": 9}, "blocks=9: the image tower has 3 blocks"),
        ({"towers": ["images"]}, "towers must be one or more of image, text"),
        ({"template": "simple"}, "template must be one sentence, 'simple' is 3"),
        ({"template": "a photo"}, "neither a set"),
        ({"names": ["cat"]}, "names has 1 texts for 2 classes"),
    ],
)
def test_wrong_arguments_are_named(model: ImageTextModel, options: dict, words: str) -> None:
    x, y = toy()
    with pytest.raises(UsageError, match=words):
        LoRATuning(model, **options).fit(x, y)
    assert not any("parametrizations" in name for name, _ in model.named_parameters())
