"""p131 (OVCamouflage): a head on frozen features that finds and names what it was shown, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import DataError, UsageError
from binderclip.models import ImageTextModel
from binderclip.segment import OVCamouflage, TowerFeatures, train_ov_camouflage
from binderclip.segment.metrics import instance_average_precision

TINY: dict[str, Any] = {"queries": 4, "width": 16, "layers": 2, "heads": 2, "hidden": 32}
NAMES = ("disc", "square")


class Shrunk:
    """The picture itself at two scales, and once more as the decoder's map."""

    widths = (3, 3, 3)

    def __call__(self, images: Tensor) -> list[Tensor]:
        half, quarter = (torch.nn.functional.avg_pool2d(images - 0.5, by) for by in (2, 4))
        return [half, quarter, half]


def shapes(count: int, seed: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Grey pictures of 32 px with a red object on the left or a green one on the right, or both."""
    generator = torch.Generator().manual_seed(seed)
    images, labels, masks = torch.full((count, 3, 32, 32), 0.5), [], []
    for row in range(count):
        kinds = [[0], [1], [0, 1]][int(torch.randint(3, (), generator=generator))]
        drawn = torch.zeros(len(kinds), 32, 32, dtype=torch.bool)
        for mask, kind in zip(drawn, kinds, strict=True):
            top, left = torch.randint(2, 16, (2,), generator=generator).tolist()
            left = left // 4 + 16 * kind
            mask[top : top + 12, left : left + 10] = True
            images[row, kind][mask] = 1.0
        labels.append(torch.tensor(kinds))
        masks.append(drawn)
    return images, labels, masks


def precision(head: OVCamouflage, images: Tensor, labels: list[Tensor], masks: list[Tensor]) -> float:
    """Mean over pictures of the average precision at IoU 0.5, of objects whose name is right."""
    scores = []
    for image, own, drawn in zip(images, labels, masks, strict=True):
        objects = head.segment(image, NAMES, score=0.3)
        for label in own.tolist():
            predicted = objects.masks[objects.labels == label]
            scores.append(instance_average_precision(predicted, drawn[own == label]))
    return sum(scores) / len(scores)


def test_a_head_learns_to_find_and_name(clip_model: ImageTextModel) -> None:
    images, labels, masks = shapes(24, 0)
    head = OVCamouflage(Shrunk(), clip_model, **TINY | {"width": 32})
    held_out = shapes(8, 1)
    before = precision(head, *held_out)
    training = train_ov_camouflage(head, images, NAMES, labels, masks, steps=120, lr=3e-3)
    assert training.losses[-10:].mean() < 0.5 * training.losses[:10].mean()
    assert precision(head, *held_out) > before + 0.6
    swapped = head.segment(held_out[0][0], NAMES[::-1], score=0.3)  # the text names, not the place in the list
    plain = head.segment(held_out[0][0], NAMES, score=0.3)
    assert [swapped.classes[k] for k in swapped.labels] == [plain.classes[k] for k in plain.labels]


def test_a_new_head_has_the_generator_s_masks_and_log_probabilities(clip_model: ImageTextModel) -> None:
    head = OVCamouflage(Shrunk(), clip_model, **TINY).eval()
    images = shapes(3, 2)[0]
    output = head(head.maps(images), head.texts(NAMES))
    assert output.masks.shape == (3, 4, 32, 32)  # twice the finest map
    assert torch.equal(output.masks, output.decoded.layers[-1].masks)
    torch.testing.assert_close(output.classes.exp().sum(-1), torch.ones(3, 4))
    there = output.decoded.layers[-1].classes.softmax(-1)
    torch.testing.assert_close(output.classes[..., :-1].exp().sum(-1), there[..., 0])
    nothing = head(head.maps(images), torch.zeros(2, 24)).classes  # texts of zeros: every class alike
    torch.testing.assert_close(nothing[..., 0], nothing[..., 1])
    torch.nn.init.normal_(head.instance_norm.affine.weight)
    refined = head(head.maps(images), head.texts(NAMES)).masks
    assert not torch.allclose(refined, output.masks)
    unrefined = OVCamouflage(Shrunk(), clip_model, refine=False, **TINY).eval()
    torch.nn.init.normal_(unrefined.instance_norm.affine.weight)
    assert torch.equal(unrefined(unrefined.maps(images), unrefined.texts(NAMES)).masks, output.masks)
    unfused = OVCamouflage(Shrunk(), clip_model, fusion=False, **TINY).eval()
    assert not torch.equal(unfused(unfused.maps(images), unfused.texts(NAMES)).masks, output.masks)


def test_weights_are_those_of_the_head_alone(clip_model: ImageTextModel) -> None:
    head = OVCamouflage(TowerFeatures(clip_model, (0, 1, 2), size=32), clip_model, **TINY)
    ours = {id(parameter) for parameter in head.parameters()}
    assert not ours & {id(parameter) for parameter in clip_model.parameters()}
    images, labels, masks = shapes(4, 3)
    before = {name: value.clone() for name, value in clip_model.state_dict().items()}
    train_ov_camouflage(head, images, NAMES, labels, masks, steps=2)
    assert all(torch.equal(value, before[name]) for name, value in clip_model.state_dict().items())
    assert head.segment(images[0], ["moth"], score=0.0).masks.shape[1:] == (32, 32)


def test_bad_input_is_refused(clip_model: ImageTextModel) -> None:
    with pytest.raises(UsageError, match="multiple of 8"):
        OVCamouflage(Shrunk(), clip_model, width=12)
    with pytest.raises(UsageError, match="template"):
        OVCamouflage(Shrunk(), clip_model, template="a moth", **TINY)
    head = OVCamouflage(Shrunk(), clip_model, **TINY)
    images, labels, masks = shapes(2, 4)
    for names in ([], ["moth", "moth"]):
        with pytest.raises(UsageError, match="different names"):
            head.texts(names)
    with pytest.raises(UsageError, match="score"):
        head.segment(images[0], NAMES, score=2)
    with pytest.raises(DataError):
        head.segment("no-such-picture.png", NAMES)
    with pytest.raises(UsageError, match="labels and masks for each picture"):
        train_ov_camouflage(head, images, NAMES, labels[:1], masks)
    with pytest.raises(UsageError, match="1 texts for 2 classes"):
        train_ov_camouflage(head, images, NAMES, labels, masks, texts=torch.zeros(1, 24))
    with pytest.raises(UsageError, match="of all 2 pictures"):
        train_ov_camouflage(head, images, NAMES, labels, masks, maps=[torch.zeros(1, 3, 16, 16)] * 3)
    head.features.widths = (3, 3, 4)
    with pytest.raises(UsageError, match="widths"):
        head.maps(images)
