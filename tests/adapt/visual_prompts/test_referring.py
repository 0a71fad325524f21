"""score_regions and RegionReferrer of p015 (arXiv 2306.04356) and p070 (2304.06712)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.adapt import (
    PRESETS,
    Crop,
    FovealBias,
    Outline,
    Outside,
    Region,
    RegionReferrer,
    prompted,
    score_regions,
)
from binderclip.errors import UsageError
from binderclip.models import ImageTextModel

BOXES = [(0, 0, 20, 16), (20, 8, 48, 40), (5, 20, 30, 47)]
TEXTS = ["a cat", "a dog"]


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


@torch.no_grad()
def by_hand(model: ImageTextModel, pictures: list[np.ndarray], texts: list[str]) -> torch.Tensor:
    """Scaled cosines of single pictures, stretched by Pillow, one by one."""
    rows = []
    for picture in pictures:
        square = Image.fromarray(picture).resize((32, 32), Image.Resampling.BICUBIC)
        x = torch.from_numpy(np.asarray(square).copy()).permute(2, 0, 1)[None] / 255
        rows.append(model.encode_pixels(model.preprocess.normalize(x))[0])
    x = torch.stack(rows)
    t = model.encode_text(texts)
    return model.scale() * (x / x.norm(dim=1, keepdim=True)) @ (t / t.norm(dim=1, keepdim=True)).T


def test_scores_are_the_sum_over_edits_of_pictures_scored_one_by_one(tiny: ImageTextModel, image: np.ndarray) -> None:
    edits = [Outline("ellipse"), Outside("blur", "box"), Crop()]
    found = score_regions(tiny, image, BOXES, TEXTS, edits=edits, size=64, batch_size=4)
    expected = sum(by_hand(tiny, [edit(image, Region(box)) for box in BOXES], TEXTS) for edit in edits)
    assert torch.allclose(found, expected, atol=1e-3)
    each = score_regions(tiny, image, BOXES, TEXTS, edits=edits, size=64, reduce="none")
    assert each.shape == (3, 3, 2)
    assert torch.allclose(each.sum(0), found, atol=1e-4)
    assert torch.allclose(score_regions(tiny, image, BOXES, TEXTS, edits=edits, size=64, reduce="mean"), found / 3)


def test_marks_are_drawn_at_the_models_size_and_crops_from_the_full_picture(image: np.ndarray) -> None:
    marked, cut = prompted(image, [Region((0, 0, 64, 48))], [Outline("box"), Crop()], size=32)
    assert marked.shape == (24, 32, 3)
    assert (marked[0] == (255, 0, 0)).all()
    assert np.array_equal(cut, image)


def test_subtracting_negatives_is_subtracting_their_mean_score(tiny: ImageTextModel, image: np.ndarray) -> None:
    edits, negatives = [Outside("gray", "box")], ["a tree", "a car", "an apple"]
    plain = score_regions(tiny, image, BOXES, TEXTS, edits=edits)
    others = score_regions(tiny, image, BOXES, negatives, edits=edits)
    found = score_regions(tiny, image, BOXES, TEXTS, edits=edits, negatives=negatives)
    assert torch.allclose(found, plain - others.mean(dim=1, keepdim=True), atol=1e-3)


def test_permuting_regions_permutes_scores(tiny: ImageTextModel, image: np.ndarray) -> None:
    options = {"edits": [Outline("ellipse")], "bias": FovealBias(2.0)}
    found = score_regions(tiny, image, BOXES, TEXTS, **options)
    assert torch.allclose(score_regions(tiny, image, BOXES[::-1], TEXTS, **options), found.flip(0), atol=1e-3)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_without_a_prompt_all_regions_are_the_image(tiny: ImageTextModel, image: np.ndarray) -> None:
    found = score_regions(tiny, image, BOXES, TEXTS)
    assert torch.allclose(found, by_hand(tiny, [image], TEXTS).expand(3, -1), atol=1e-3)
    assert torch.allclose(score_regions(tiny, image, BOXES, TEXTS, bias=FovealBias(0.0)), found, atol=1e-3)


def test_banks_templates_and_several_models(tiny: ImageTextModel, image: np.ndarray) -> None:
    edits = [Outline("ellipse")]
    bank = tiny.text_bank(["cat", "dog"], "a {}")
    found = score_regions(tiny, image, BOXES, TEXTS, edits=edits)
    assert torch.allclose(score_regions(tiny, image, BOXES, bank, edits=edits), found, atol=1e-4)
    assert torch.allclose(score_regions(tiny, image, BOXES, ["cat", "dog"], edits=edits, templates="a {}"), found)
    assert torch.allclose(score_regions([tiny, tiny], image, BOXES, TEXTS, edits=edits), 2 * found, atol=1e-3)
    twice = score_regions(tiny, image, BOXES, ["a cat", "a cat"], edits=edits)
    assert torch.equal(twice[:, 0], twice[:, 1])


@pytest.mark.parametrize("preset", list(PRESETS))
def test_presets_score_with_their_edits_and_assign(tiny: ImageTextModel, image: np.ndarray, preset: str) -> None:
    regions = [Region(box, Region(box).inside("ellipse", 48, 64)) for box in BOXES]
    found = RegionReferrer(tiny, preset, templates=None, how="hungarian")(image, regions, TEXTS)
    chosen = PRESETS[preset]
    expected = score_regions(tiny, image, regions, TEXTS, edits=chosen.edits, bias=chosen.bias)
    assert torch.allclose(found.scores, expected, atol=1e-4)
    assert torch.allclose(found.probs.sum(dim=0), torch.ones(2))
    assert len(set(found.best.tolist())) == 2


def test_reclip_is_crop_plus_blur_outside_the_box(tiny: ImageTextModel, image: np.ndarray) -> None:
    found = RegionReferrer(tiny, "reclip", templates=None, size=64)(image, BOXES, TEXTS).scores
    pictures = [[image[y0:y1, x0:x1] for x0, y0, x1, y1 in BOXES]]
    pictures += [[Outside("blur", "box")(image, Region(box)) for box in BOXES]]
    assert torch.allclose(found, sum(by_hand(tiny, own, TEXTS) for own in pictures), atol=1e-3)


def test_mistakes_are_named(tiny: ImageTextModel, image: np.ndarray) -> None:
    with pytest.raises(UsageError, match="preset must be one of red-circle"):
        RegionReferrer(tiny, "star")
    with pytest.raises(UsageError, match="how must be one of argmax"):
        RegionReferrer(tiny, how="greedy")
    with pytest.raises(UsageError, match="region 0 has none"):
        RegionReferrer(tiny, "fgvp")(image, BOXES, TEXTS)
    with pytest.raises(UsageError, match="outside the image"):
        score_regions(tiny, image, [(100, 0, 120, 9)], TEXTS, edits=[Crop()])
    with pytest.raises(UsageError, match="reduce must be"):
        score_regions(tiny, image, BOXES, TEXTS, reduce="max")
    with pytest.raises(UsageError, match="regions is empty"):
        score_regions(tiny, image, [], TEXTS)


def test_the_stretch_belongs_to_the_scores_not_to_the_model(tiny: ImageTextModel, image: np.ndarray) -> None:
    before = replace(tiny.preprocess)
    score_regions(tiny, image, BOXES, TEXTS, edits=[Crop()])
    assert tiny.preprocess == before
