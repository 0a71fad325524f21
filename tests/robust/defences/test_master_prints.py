"""Defences against master prints (p089, arXiv 2307.03798): means that meet, a text for noise, a detector of noise."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.models import build, load_vision
from binderclip.robust import shift_modality_gap, train_fooling_detector, tune_off_manifold
from binderclip.robust.defences.master_prints import OFF_MANIFOLD

LATENT = (3, 4, 4)


def decode(latents: torch.Tensor) -> torch.Tensor:
    return F.interpolate(latents, size=(16, 16), mode="nearest").sigmoid()


def pictures(count: int, seed: int = 0) -> torch.Tensor:
    """Plain colours."""
    colours = torch.rand(count, 3, 1, 1, generator=torch.Generator().manual_seed(seed))
    return colours.expand(-1, -1, 16, 16).clone()


def test_means_meet_at_half_the_gap() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(40, 6, generator=generator) + 2, torch.randn(30, 6, generator=generator)
    same = shift_modality_gap(images, texts, 0.0)
    torch.testing.assert_close(same[0], F.normalize(images, dim=1))
    torch.testing.assert_close(same[1], F.normalize(texts, dim=1))
    gap = images.mean(0) - texts.mean(0)
    moved = shift_modality_gap(images, texts, 0.5)
    torch.testing.assert_close(moved[0], F.normalize(images - gap / 2, dim=1))
    torch.testing.assert_close(moved[1], F.normalize(texts + gap / 2, dim=1))
    torch.testing.assert_close((images - gap / 2).mean(0), (texts + gap / 2).mean(0))
    # One row is moved by the gap of many.
    one, _ = shift_modality_gap(images[:1], texts, 0.25, gap=gap)
    torch.testing.assert_close(one, F.normalize(images[:1] - gap / 4, dim=1))
    with pytest.raises(UsageError, match="one space"):
        shift_modality_gap(images, texts[:, :3])


def test_noise_is_called_off_manifold_and_the_model_stays() -> None:
    torch.manual_seed(0)
    config: dict[str, Any] = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    model = build(config, name="tiny").eval()
    weights = copy.deepcopy(model.state_dict())
    images, texts = pictures(12), [f"colour {number}" for number in range(12)]
    tuned = tune_off_manifold(
        model, images, texts, latent=LATENT, decode=decode, epochs=20, batch_size=6, lr=3e-3, weight_decay=0.0, seed=1
    )  # the paper's decay belongs to its rate of 1e-7
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, weights[name], rtol=0, atol=0)
    assert not tuned.training
    noise = decode(torch.randn(32, *LATENT, generator=torch.Generator().manual_seed(5)))
    said = [OFF_MANIFOLD, *texts]
    found = [
        F.cosine_similarity(each.encode_image(noise)[:, None], each.encode_text(said)[None], dim=2).argmax(1)
        for each in (model, tuned)
    ]
    before, after = (float((each == 0).float().mean()) for each in found)
    assert before < 0.2
    assert after > 0.5  # of 13 texts
    # Pictures are not.
    own = F.cosine_similarity(tuned.encode_image(images)[:, None], tuned.encode_text(said)[None], dim=2).argmax(1)
    assert float((own == 0).float().mean()) < 0.3
    with pytest.raises(UsageError, match="one text an image"):
        tune_off_manifold(model, images, texts[:3], latent=LATENT)


def test_a_detector_learns_and_its_classifier_stays() -> None:
    classifier = load_vision("lite0")
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    genuine = F.interpolate(pictures(16), size=(64, 64))
    fooling = torch.rand(16, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    detector = train_fooling_detector(classifier, genuine, fooling, epochs=4, batch_size=8)
    for name, value in classifier.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    fresh = torch.cat([F.interpolate(pictures(8, 9), size=(64, 64)), torch.rand(8, 3, 64, 64)])
    with torch.no_grad():
        right = detector(fresh).argmax(1) == torch.tensor([0] * 8 + [1] * 8)
    assert float(right.float().mean()) > 0.8
    assert list(detector.classes) == ["genuine", "fooling"]
    assert detector.classify(fresh[:1], top=1).labels is not None
    with pytest.raises(UsageError, match="both kinds"):
        train_fooling_detector(classifier, genuine, fooling[:0])
