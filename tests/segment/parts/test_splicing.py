"""Tokens spliced and mixed over the picture (p148, Trident, arXiv 2411.09219), against loops, limits and one window."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from binderclip.data.synthetic_scenes.stream import scenes
from binderclip.errors import UsageError
from binderclip.models import load
from binderclip.segment import (
    CentredSoftmax,
    ClassRule,
    External,
    LastBlock,
    PromptedMasks,
    Segmenter,
    ValueMaskedAttention,
    Whole,
    Windows,
    parts_of,
    value_masked,
)
from binderclip.segment.parts.context import Frame
from binderclip.segment.promptable import EncoderAttention, OracleSegmenter
from binderclip.segment.segmenter import aligned

LABELS = ["a cat", "a dog", "green grass"]


def cells(pixels: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(pixels, 4) - 0.5


PROXY = LastBlock(CentredSoftmax(External(cells)))


def alone(image: torch.Tensor) -> EncoderAttention:
    """Every cell of a grid of 8 x 8 attends to itself."""
    return EncoderAttention(torch.eye(64)[None], torch.eye(64)[None], (8, 8))


def test_the_mask_entry_by_entry() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(2, 5, 5, generator=generator).softmax(-1)
    values = torch.randn(2, 5, 3, generator=generator)
    found = value_masked(weights, values, factor=1.2, cap=0.5)
    cosine = [
        [[float(F.cosine_similarity(values[h, i], values[h, j], dim=0)) for j in range(5)] for i in range(5)]
        for h in range(2)
    ]
    for i in range(5):
        threshold = min(0.5, 1.2 * sum(cosine[h][i][j] for h in range(2) for j in range(5)) / 10)
        row = [sum(float(weights[h, i, j]) for h in range(2) if cosine[h][i][j] > threshold) / 2 for j in range(5)]
        torch.testing.assert_close(found[i], torch.tensor(row) / sum(row))
    torch.testing.assert_close(found.sum(-1), torch.ones(5))


def test_limits_of_the_mask() -> None:
    weights = torch.rand(3, 6, 6, generator=torch.Generator().manual_seed(1)).softmax(-1)
    same = torch.ones(3, 6, 2)
    torch.testing.assert_close(value_masked(weights, same), weights.mean(0))  # all alike: the cap lets all pass
    torch.testing.assert_close(value_masked(weights, same, cap=1.0), torch.eye(6))  # nothing above: no row of NaN
    opposite = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0], [-1.0, 0.0]]])
    loose = value_masked(torch.full((1, 4, 4), 0.25), opposite, negative=None)
    strict = value_masked(torch.full((1, 4, 4), 0.25), -opposite, negative=0.6)
    torch.testing.assert_close(loose[0], torch.tensor([1.0, 0, 0, 0]))
    torch.testing.assert_close(strict[0], torch.tensor([1.0, 0, 0, 0]))


def test_one_window_without_mixing_is_proxyclip(clip_model) -> None:
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))
    want = Segmenter(clip_model, "proxyclip", last_block=PROXY, resolution=Whole(32))(image, LABELS)
    for mix in (None, ValueMaskedAttention(alone)):
        parts = {} if mix is None else {"mix": mix}
        whole = Windows(window=32, size=32, merge="tokens")
        found = Segmenter(clip_model, "proxyclip", last_block=PROXY, resolution=whole, **parts)(image, LABELS)
        torch.testing.assert_close(found.scores, want.scores, atol=1e-5, rtol=1e-4)


def test_mixing_spreads_what_was_spliced(clip_model) -> None:
    def uniform(image: torch.Tensor) -> EncoderAttention:
        return EncoderAttention(torch.full((1, 16, 16), 1 / 16), torch.ones(1, 16, 2), (4, 4))

    image = torch.rand(1, 3, 32, 32)
    frame = Frame(clip_model, image, image)
    maps = torch.randn(1, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    found = ValueMaskedAttention(uniform)(maps, frame)
    assert found.shape == (1, 5, 4, 4)
    torch.testing.assert_close(found, maps.mean((2, 3), keepdim=True).expand(-1, -1, 4, 4))
    constant = torch.ones(1, 5, 8, 8)
    torch.testing.assert_close(ValueMaskedAttention(uniform)(constant, frame), torch.ones(1, 5, 4, 4))


def test_grids_that_do_not_lie_on_patches_are_brought_to_the_nearest_that_do() -> None:
    maps = torch.rand(1, 2, 9, 9)
    assert aligned(maps, (4, 4)).shape[-2:] == (8, 8)
    assert aligned(maps[..., :3, :3], (4, 4)).shape[-2:] == (4, 4)
    assert aligned(maps[..., :8, :8], (4, 4)) is not None
    exact = torch.rand(1, 2, 8, 8)
    torch.testing.assert_close(aligned(exact, (4, 4)), exact)


def test_presets_run_with_the_bundled_models(clip_model) -> None:
    image = torch.rand(3, 40, 64, generator=torch.Generator().manual_seed(2))
    for preset in ("trident", "trident-prompted"):
        found = Segmenter(clip_model, preset)(image, LABELS)
        assert found.labels.shape == (40, 64)
    by_tower = ValueMaskedAttention("small-dino", size=64)
    assert Segmenter(clip_model, "trident", mix=by_tower)(image, LABELS).labels.shape == (40, 64)


@pytest.mark.parametrize("preset", ["trident", "trident-prompted"])
def test_both_presets_are_the_papers_parts(preset: str) -> None:
    parts = parts_of(preset)
    # As the released code has it, the mean cosine is over all windows that run together.
    assert parts.last_block == LastBlock(CentredSoftmax(External("small-dino"), mean="batch"))
    assert parts.resolution == Windows(merge="tokens")
    assert parts.mix == ValueMaskedAttention("small-dino", factor=10.0, size=256)
    assert parts.rule == ClassRule(scale=40.0, over="words")
    assert parts.relabel == ((PromptedMasks(),) if preset == "trident-prompted" else ())


def test_every_part_of_the_preset_has_a_say() -> None:
    """A picture of several windows, on each of which and over all of which the parts act."""
    model, parts = load("small"), parts_of("trident")
    scene = scenes(3, 1, 192, objects=2, background="plain")
    words = ["background", *scene.names[0]]
    changed = {
        "no mix": replace(parts, mix=None),
        "a mean of each window": replace(parts, last_block=LastBlock(CentredSoftmax(External("small-dino")))),
        "scores spliced, not tokens": replace(parts, resolution=Windows(), mix=None),
        "proxyclip": "proxyclip",
    }
    found = Segmenter(model, "trident")(scene.images[0], words).scores.softmax(0)
    torch.testing.assert_close(Segmenter(model, parts)(scene.images[0], words).scores.softmax(0), found)
    for name, other in changed.items():
        scores = Segmenter(model, other)(scene.images[0], words).scores.softmax(0)
        assert (scores - found).abs().max() > 0.05, name


def test_prompted_masks_change_what_trident_found() -> None:
    """With the bundled segmenter some pixels change; one that knows the objects brings the labels nearer to them."""
    model = load("small")
    scene = scenes(7, 1, 128, objects=2, background="plain")
    image, words, objects = scene.images[0], ["plain background", *scene.names[0]], scene.visible[0].bool()
    truth = (objects * torch.tensor([1, 2]).view(2, 1, 1)).amax(0)
    plain, prompted = (Segmenter(model, preset)(image, words) for preset in ("trident", "trident-prompted"))
    torch.testing.assert_close(prompted.scores, plain.scores)
    assert (prompted.labels != plain.labels).any()
    parts = parts_of("trident-prompted")
    oracle = OracleSegmenter(torch.cat([objects, ~objects.any(0, keepdim=True)]))
    relabel = tuple(replace(each, segmenter=oracle, iou=0.1) for each in parts.relabel)
    known = Segmenter(model, replace(parts, relabel=relabel))(image, words)
    wrong, right = (float((each.labels != truth).float().mean()) for each in (plain, known))
    assert right < wrong - 0.2


def test_a_cap_above_one_is_named() -> None:
    with pytest.raises(UsageError, match="cap"):
        ValueMaskedAttention(cap=1.5)
