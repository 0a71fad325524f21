"""Heatmaps: consensus by definition, boxes of maps, and what the localiser sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.segment import Segmenter
from binderclip.segment.parts.resolution import Squash
from binderclip.segment.task import Localiser, WordBoxes, WordMaps, consensus_heatmap, unit_range


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


def test_every_hot_part_has_a_box_the_one_with_the_maximum_first():
    heat = torch.zeros(1, 8, 10)
    heat[0, 1:3, 1:4], heat[0, 5:7, 6:9], heat[0, 6, 7], heat[0, 0, 9] = 0.8, 0.7, 1.0, 0.5
    boxes = WordBoxes(lambda image, words: heat, threshold=0.6)
    picture = Image.new("RGB", (100, 80))
    assert boxes(picture, "x") == [(60, 50, 90, 70), (10, 10, 40, 30)]
    assert boxes.first(picture, "x") == (60, 50, 90, 70)
    flat = WordBoxes(lambda image, words: torch.ones(1, 4, 4))
    assert flat(picture, "x") == []
    assert flat.first(picture, "x") is None


@pytest.fixture
def noise() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_maps_have_a_cell_for_each_patch(clip_model, noise):
    """The ordinary patch tokens at the model's own side, by the tower alone: nothing is smoothed."""
    maps = WordMaps(Segmenter(clip_model, "plain", resolution=Squash()))
    assert isinstance(maps, Localiser)
    found = maps(noise, ["cat", "dog", "cat"])
    tower, side = clip_model.image_tower, clip_model.image_size
    pixels = torch.from_numpy(np.array(noise)).permute(2, 0, 1)[None].float() / 255
    square = torch.nn.functional.interpolate(pixels, size=(side, side), mode="bicubic", antialias=True).clamp(0, 1)
    with torch.no_grad():
        cells = tower.dense(tower.run(tower.embed(clip_model.preprocess.normalize(square))))[0]
        text = torch.nn.functional.normalize(clip_model.encode_text(["cat", "dog"]), dim=-1)
    expected = torch.einsum("ehw,qe->qhw", torch.nn.functional.normalize(cells, dim=0), text)
    assert found.shape == (3, side // tower.patch, side // tower.patch)
    torch.testing.assert_close(found[:2], expected, atol=1e-4, rtol=1e-3)
    assert torch.equal(found[0], found[2])
    with pytest.raises(UsageError, match="one window"):
        WordMaps(Segmenter(clip_model, "clearclip"))(noise, ["cat"])


def test_surgery_sees_a_square_of_the_models_side_and_85_sentences(clip_model, noise, monkeypatch):
    said, seen = [], []
    encode, embed = type(clip_model).encode_text, type(clip_model.image_tower).embed
    monkeypatch.setattr(type(clip_model), "encode_text", lambda m, t, **k: said.append(list(t)) or encode(m, t, **k))
    monkeypatch.setattr(type(clip_model.image_tower), "embed", lambda t, x: seen.append(x.shape) or embed(t, x))
    found = WordMaps.surgery(clip_model)(noise, ["cat"])
    assert found.shape == (1, 4, 4)
    assert [tuple(shape[-2:]) for shape in seen] == [(32, 32)]
    word, empty = said
    assert len(set(word)) == len(set(empty)) == 85
    assert {"a photo of a cat.", "this is one cat in the scene."} <= set(word)
    assert "a photo of a ." in empty
