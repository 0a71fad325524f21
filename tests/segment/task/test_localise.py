"""Heatmaps: consensus by definition, boxes of maps, and the papers' segmenters on a tiny model."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.segment import Segmenter
from binderclip.segment.promptable import OracleSegmenter
from binderclip.segment.task import TASK_METHODS, Localiser, WordMaps, consensus_heatmap, unit_range, word_box


def test_consensus_by_numpy():
    rng = np.random.default_rng(0)
    fore, back = rng.random((3, 5, 6)), rng.random((2, 5, 6))

    def unit(x):
        return (x - x.min()) / (x.max() - x.min())

    expected = unit(np.mean([unit(f) for f in fore], 0) - np.mean([unit(b) for b in back], 0))
    found = consensus_heatmap(torch.from_numpy(fore), torch.from_numpy(back))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)
    # one word and no surroundings: its own map
    alone = consensus_heatmap(torch.from_numpy(fore[:1]), torch.zeros(0, 5, 6))
    np.testing.assert_allclose(alone.numpy(), unit(fore[0]), atol=1e-6)
    assert not unit_range(torch.ones(2, 3, 3)).any()


def test_the_box_holds_the_part_with_the_maximum():
    heat = torch.zeros(1, 8, 10)
    heat[0, 1:3, 1:4], heat[0, 5:7, 6:9], heat[0, 6, 7] = 0.8, 0.7, 1.0
    locate = word_box(lambda image, words: heat, threshold=0.6)
    assert locate(Image.new("RGB", (100, 80)), "x") == (60, 50, 90, 70)
    flat = word_box(lambda image, words: torch.ones(1, 4, 4))
    assert flat(Image.new("RGB", (100, 80)), "x") is None


@pytest.fixture
def noise() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_maps_have_a_cell_for_each_patch(clip_model, noise):
    maps = WordMaps(Segmenter(clip_model, "kk"))
    assert isinstance(maps, Localiser)
    found = maps(noise, ["cat", "dog", "cat"])
    scores = Segmenter(clip_model, "kk")(noise, ["cat", "dog"]).scores
    patch = maps.segmenter.tower.patch
    assert found.shape == (3, scores.shape[1] // patch, scores.shape[2] // patch)
    assert torch.equal(found[0], found[2])
    torch.testing.assert_close(found[1, 0, 0], scores[1, :patch, :patch].mean(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", TASK_METHODS)
def test_each_paper_runs(clip_model, noise, name):
    mask = torch.zeros(2, 48, 64, dtype=torch.bool)
    mask[0, 10:40, 10:50], mask[1, :6, :6] = True, True
    vocabulary = (["cat", "dog", "car"],) if name in ("gensam", "int") else ()
    segmenter = TASK_METHODS[name](clip_model, OracleSegmenter(mask), *vocabulary)
    found = segmenter(noise, "the hidden animal")
    assert found.mask.shape == (48, 64)
    assert len(found.rounds) == segmenter.loop.rounds
    assert set(found.words) <= {"cat", "dog", "car", "the hidden animal"}
    known = {m.numpy().tobytes() for m in (*mask, mask[0] & False, mask.any(0))}
    assert found.mask.numpy().tobytes() in known
