"""visual_prompt_study and attention_in_region of p163 (arXiv 2408.15802), with marks adapt.Outline and adapt.Crop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, matthews_corrcoef, roc_auc_score

from binderclip.adapt import Crop, Outline, Region
from binderclip.errors import UsageError
from binderclip.evaluate import attention_in_region, attention_mass, box_coverage, visual_prompt_study
from binderclip.evaluate.visual_prompts import _scored
from binderclip.models import ImageTextModel, build

TEXTS = {"cat": "a cat{suffix}", "dog": "a dog{suffix}", "tree": "a tree"}


@pytest.fixture(scope="module")
def tiny() -> ImageTextModel:
    torch.manual_seed(0)
    vision = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8, "image_size": 32}
    text = {"context_length": 12, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
    model = build({"embed_dim": 32, "vision_cfg": vision, "text_cfg": text}, name="tiny")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.backbone.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (9, 32, 48, 3), dtype=np.uint8))


REGIONS = [Region((4.0 + i, 4, 24 + i, 28)) for i in range(9)]
LABELS = ["cat", "dog", "tree"] * 3


def test_scores_are_those_of_scikit_learn_on_pictures_marked_by_hand(tiny: ImageTextModel, images: list) -> None:
    circle = Outline("ellipse", width=0.1)
    none, plain, said = visual_prompt_study(
        tiny, images, REGIONS, LABELS, TEXTS, {"circle": circle}, suffixes={"circle": " by a red circle"}, resamples=20
    )
    assert [(s.mark, s.suffix) for s in (none, plain, said)] == [
        ("none", ""), ("circle", ""), ("circle", " by a red circle")
    ]  # fmt: skip
    target = np.array([0, 1, 2] * 3)
    pictures = [circle(image, region) for image, region in zip(images, REGIONS, strict=True)]
    square = [Image.fromarray(p).resize((32, 32), Image.Resampling.BICUBIC) for p in pictures]
    texts = ["a cat by a red circle", "a dog by a red circle", "a tree by a red circle"]
    probs = tiny.classify(square, texts).probs
    assert torch.allclose(said.probs, probs, atol=1e-4)
    one_hot = np.eye(3)[target]
    p = probs.numpy()
    assert said.auroc == pytest.approx(roc_auc_score(target, p, average="macro", multi_class="ovr"), abs=1e-6)
    assert said.average_precision == pytest.approx(average_precision_score(one_hot, p, average="macro"))
    assert said.mcc == pytest.approx(matthews_corrcoef(target, p.argmax(1)))
    assert said.accuracy == pytest.approx((p.argmax(1) == target).mean())
    assert said.interval[0] <= said.auroc <= said.interval[1]
    sure = _scored("circle", "", torch.eye(3)[torch.tensor([0, 1, 2] * 3)], target, math.nan, 20, 0)
    assert sure.auroc == 1
    assert np.isnan(sure.interval).all(), "resamples without an error are all alike"
    assert np.isnan(said.attention)
    assert not torch.allclose(plain.probs, none.probs, atol=1e-3)
    assert not torch.allclose(plain.probs, said.probs, atol=1e-3)


def test_an_invisible_mark_and_a_crop_of_everything_change_nothing(tiny: ImageTextModel, images: list) -> None:
    marks = {"circle": Outline("ellipse", width=0), "crop": Crop()}
    whole = [Region((0, 0, 48, 32))] * 9
    found = visual_prompt_study(tiny, images, whole, LABELS, TEXTS, marks, resamples=2)
    for score in found[1:]:
        assert torch.allclose(score.probs, found[0].probs, atol=1e-5)


def test_attention_is_measured_where_the_box_still_is(tiny: ImageTextModel, images: list) -> None:
    boxes = torch.tensor([region.box for region in REGIONS])
    marks = {"circle": Outline("ellipse"), "crop": Crop()}
    none, circle, crop = visual_prompt_study(
        tiny, images, REGIONS, LABELS, TEXTS, marks, boxes=boxes, resamples=2, batch_size=4
    )
    inside = attention_in_region(tiny, images, boxes)
    assert none.attention == pytest.approx(float(inside.mean()), abs=1e-6)
    first = visual_prompt_study(tiny, images, REGIONS, LABELS, TEXTS, {}, boxes=boxes, resamples=0, layer=0)[0]
    assert first.attention == pytest.approx(float(attention_in_region(tiny, images, boxes, layer=0).mean()), abs=1e-6)
    assert first.attention != pytest.approx(none.attention, abs=1e-5)
    marked = [marks["circle"](image, region) for image, region in zip(images, REGIONS, strict=True)]
    assert circle.attention == pytest.approx(float(attention_in_region(tiny, marked, boxes).mean()), abs=1e-6)
    assert np.isnan(crop.attention)
    plain = visual_prompt_study(tiny, images, REGIONS, LABELS, TEXTS, {}, resamples=2)[0]
    assert torch.allclose(none.probs, plain.probs, atol=1e-4)


def test_the_attention_of_all_patches_is_one_and_of_a_box_the_sum_written_out(
    tiny: ImageTextModel, images: list
) -> None:
    assert torch.allclose(attention_in_region(tiny, images, [(0, 0, 48, 32)] * 9), torch.ones(9), atol=1e-5)
    attention = torch.rand(1, 2, 5, 5)
    row = attention[0, :, 0, 1:].mean(0)
    expected = (row[1] + 0.5 * row[3]) / row.sum()
    assert float(attention_mass(attention, torch.tensor([[[0.0, 1.0], [0.0, 0.5]]]))) == pytest.approx(float(expected))
    # a class token and two registers before two patches
    row = attention[0, :, 0, 3:].mean(0)
    found = attention_mass(attention, torch.tensor([[[0.0, 1.0]]]), prefix=3)
    assert float(found) == pytest.approx(float(row[1] / row.sum()))


def test_coverage_is_the_share_of_each_patch() -> None:
    # 60 x 40 pixels on a grid of 2 x 3: patches of 20 x 20.
    found = box_coverage((10, 5, 40, 20), (40, 60), (2, 3))
    assert torch.allclose(found, torch.tensor([[0.5 * 0.75, 0.75, 0.0], [0.0, 0.0, 0.0]]))
    assert float(box_coverage((-99, -99, 999, 999), (40, 60), (2, 3)).sum()) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["cat"] * 8}, "must be as many"),
        ({"labels": ["bird"] * 9}, "label 'bird' has no text"),
        ({"labels": ["cat"] * 9}, "none has the label 'dog'"),
        ({"suffixes": {"box": " x"}}, "suffixes names 'box'"),
    ],
)
def test_mistakes_are_named(tiny: ImageTextModel, images: list, change: dict, message: str) -> None:
    arguments = {"labels": LABELS, "suffixes": {}} | change
    with pytest.raises(UsageError, match=message):
        visual_prompt_study(
            tiny, images, REGIONS, arguments["labels"], TEXTS, {"circle": Outline()}, suffixes=arguments["suffixes"]
        )
    with pytest.raises(UsageError, match="one for each image"):
        attention_in_region(tiny, images, [(0, 0, 9, 9)])
    with pytest.raises(UsageError, match="does not fit a grid"):
        attention_mass(torch.rand(1, 1, 5, 5), torch.rand(1, 3, 3))
