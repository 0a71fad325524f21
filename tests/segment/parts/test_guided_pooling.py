"""Pooling over what belongs together and background by saliency (p105, CLIP-DINOiser), against loops and limits."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.errors import UsageError
from binderclip.models import Record, load
from binderclip.segment import (
    BackgroundSeed,
    ClassRule,
    External,
    GuidedPooling,
    LastBlock,
    Parts,
    Segmenter,
    Student,
    StudentSaliency,
    TextSide,
    background_of,
    identity,
    parts_of,
    weighted_pool,
)
from binderclip.segment.parts.context import Context, Frame, head, open_windows, records
from binderclip.segment.parts.guided_pooling import thresholded

LABELS = ["a cat", "a dog", "green grass"]
MASKCLIP = LastBlock(identity, residual=True, mlp=True)


def opened(model, *parts) -> Context:
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return open_windows(Frame(model, pixels, pixels), pixels, [(0, 0)] * 2, records(*parts))


def constant(pixels: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(pixels), 3, 4, 4)


def distinct(pixels: torch.Tensor) -> torch.Tensor:
    """Every patch is like itself only."""
    return torch.eye(16).view(1, 16, 4, 4).expand(len(pixels), -1, -1, -1)


def test_pooling_cell_by_cell() -> None:
    generator = torch.Generator().manual_seed(0)
    maps, features = torch.randn(1, 5, 2, 3, generator=generator), torch.randn(1, 4, 2, 3, generator=generator)
    found = weighted_pool(maps, thresholded(F.normalize(features, dim=1), 0.2))
    f, g = maps[0].flatten(1).numpy().T, features[0].flatten(1).numpy().T
    want = np.zeros_like(f)
    for i in range(6):
        weights = [float(g[i] @ g[j] / np.linalg.norm(g[i]) / np.linalg.norm(g[j])) for j in range(6)]
        weights = [w if w >= 0.2 else 0.0 for w in weights]
        want[i] = sum(w * f[j] for j, w in enumerate(weights)) / (sum(weights) + 1e-6)
    np.testing.assert_allclose(found[0].flatten(1).numpy().T, want, rtol=1e-4, atol=1e-6)
    # Weights are positive, so that no mean leaves the range of what it is made of.
    assert (found <= maps.amax((2, 3), keepdim=True) + 1e-5).all()
    assert (found >= maps.amin((2, 3), keepdim=True) - 1e-5).all()


def test_one_thing_is_its_mean_and_strangers_are_maskclip(clip_model) -> None:
    text = TextSide().bind(clip_model, LABELS)
    context = opened(clip_model)
    dense = head(context.tower, MASKCLIP(context))
    plain = (text.scale * text.cosines(dense)).softmax(1)
    torch.testing.assert_close(GuidedPooling(External(distinct))(context, MASKCLIP, text), plain, atol=1e-4, rtol=1e-3)
    whole = GuidedPooling(External(constant), threshold=-1.0)(context, MASKCLIP, text)
    mean = (text.scale * text.cosines(dense.mean((2, 3), keepdim=True))).softmax(1)
    torch.testing.assert_close(whole, mean.expand_as(whole), atol=1e-4, rtol=1e-3)


def test_what_is_unsure_and_does_not_stand_out_is_background(clip_model) -> None:
    text = TextSide(background=("background", "paper")).bind(clip_model, LABELS)
    context = opened(clip_model)
    left = torch.zeros(2, 4, 4)
    left[:, :, :2] = 0.9
    plain = GuidedPooling(External(distinct))(context, MASKCLIP, text)
    delta = plain.amax(1).median().item()
    rule = GuidedPooling(External(distinct), saliency=lambda _c: left, delta=delta)
    found = rule(context, MASKCLIP, text)
    changed = (found != plain).any(1)
    want = (plain.amax(1) < delta) & (left <= 0.5)
    assert changed.equal(want)
    assert 0 < int(want.sum()) < want.numel() // 2 + 1
    assert (found[:, text.owner == 0].amax(1)[want] == 1).all()
    torch.testing.assert_close(found[:, text.owner > 0], plain[:, text.owner > 0])
    # Without a background among the labels it has no say.
    free = TextSide().bind(clip_model, LABELS)
    torch.testing.assert_close(
        rule(context, MASKCLIP, free), GuidedPooling(External(distinct))(context, MASKCLIP, free)
    )


def test_the_seed_of_the_background_by_hand() -> None:
    attention = torch.tensor([[[0.1, 0.5, 0.3, 0.1], [0.2, 0.9, 0.25, 0.15]]])
    keys = torch.randn(1, 2, 4, 3, generator=torch.Generator().manual_seed(3))
    found, most = (background_of(attention, keys, tau=0.1, seed=seed) for seed in ("least", "most"))
    mean = float(attention.mean())
    shares = [sum(float(a) > mean for a in row) / 4 for row in attention[0]]
    weights = [math.log(sum(shares) / share) for share in shares]
    looked = [sum(w * float(attention[0, h, i]) for h, w in enumerate(weights)) for i in range(4)]
    seed = looked.index(min(looked))
    rows = [torch.cat([w * keys[0, h, i] for h, w in enumerate(weights)]) for i in range(4)]
    want = [float(F.cosine_similarity(row, rows[seed], dim=0)) > 0.1 for row in rows]
    assert found[0].tolist() == want
    assert found[0, seed]
    assert most[0, looked.index(max(looked))]


def test_the_background_of_a_picture_is_not_its_object() -> None:
    """The bundled tower, on one drawing in the middle of a plain ground."""
    batch = scenes(3, 4, 128, objects=1, area=(0.1, 0.2), background="plain")
    frame = Frame(load("small"), batch.images[:1], batch.images[:1])
    found = BackgroundSeed()(open_windows(frame, batch.images, ((0, 0),) * 4, Record()))
    share = F.adaptive_avg_pool2d(batch.visible.any(1)[:, None].float(), found.shape[-2:])[:, 0]
    assert found[share > 0.9].mean() > found[share < 0.1].mean() + 0.3


def test_the_preset_needs_no_training_and_takes_any_tower(clip_model) -> None:
    image = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(2))
    found = Segmenter(clip_model, "clip_dinoiser-teacher", background=["background"])(image, LABELS)
    assert found.labels.shape == (32, 48)
    assert found.classes == ("background", *LABELS)


@pytest.mark.parametrize("preset", ["clip_dinoiser", "clip_dinoiser-teacher"])
def test_both_presets_are_the_papers_parts(preset: str) -> None:
    """MaskCLIP of this paper keeps residual sum and MLP; what it gives are probabilities, so words are not drawn."""
    model = load("small")
    image = scenes(3, 1, 64, objects=2).images[0]
    parts = parts_of(preset)
    assert parts.last_block == MASKCLIP
    assert parts.rule == ClassRule(over="given")
    fusion = {
        "clip_dinoiser": GuidedPooling(Student(), threshold=0.7, saliency=StudentSaliency(Student())),
        "clip_dinoiser-teacher": GuidedPooling(
            External("small-dino", of="v"), threshold=0.8, saliency=BackgroundSeed("small-dino")
        ),
    }[preset]
    by_hand = Parts(last_block=MASKCLIP, fusion=fusion, rule=ClassRule(over="given"))
    found, want, maskclip, bare, unpooled = (
        Segmenter(model, each, background=["background"])(image, LABELS).scores.softmax(0)
        for each in (
            preset,
            by_hand,
            "maskclip",
            replace(by_hand, last_block=LastBlock(identity)),
            replace(by_hand, fusion=replace(fusion, threshold=0.9999)),
        )
    )
    torch.testing.assert_close(found, want)
    for other in (maskclip, bare, unpooled):
        assert (other - found).abs().max() > 0.01


def test_bad_settings_are_named() -> None:
    with pytest.raises(UsageError, match="threshold"):
        GuidedPooling(threshold=2.0)
    with pytest.raises(UsageError, match="seed must be one of least, most"):
        BackgroundSeed(seed="first")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="delta"):
        GuidedPooling(delta=99)
