"""Deletion, insertion and pixel perturbation against models whose answer depends on known pixels."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binderclip.data import Fill
from binderclip.errors import UsageError
from binderclip.explain import Saliency, attribute, deletion_auc, insertion_auc, maps_of, pixel_perturbation

NEEDED = [(0, 1), (1, 3), (2, 2), (3, 0)]


class FourPixels(nn.Module):
    """The mean of four known pixels of sixteen: their share that is left is the score of a white image."""

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = zip(*NEEDED, strict=True)
        return x[:, :, list(rows), list(columns)].mean(dim=(1, 2))[:, None]


def perfect() -> Tensor:
    maps = torch.zeros(2, 4, 4)
    for row, column in NEEDED:
        maps[:, row, column] = 1
    return maps


WHITE = torch.ones(2, 3, 4, 4)


def test_deletion_and_insertion_have_closed_forms() -> None:
    model = FourPixels()
    best = deletion_auc(model, WHITE, 0, maps=perfect(), steps=16, draws=100)
    assert best.fractions.tolist() == [k / 16 for k in range(17)]
    assert best.curve[0].tolist() == [max(4 - k, 0) / 4 for k in range(17)]
    # A triangle of height 1 over a quarter of the way.
    assert best.values.tolist() == pytest.approx([1 / 8, 1 / 8])
    assert best.mean == pytest.approx(1 / 8)
    assert best.standard_error == pytest.approx(0)
    # Each pixel is as likely to be the k-th: the expected curve is the diagonal.
    assert best.random_mean == pytest.approx(0.5, abs=0.05)
    worst = deletion_auc(model, WHITE, 0, maps=1 - perfect(), steps=16)
    assert worst.mean == pytest.approx(7 / 8)
    inserted = insertion_auc(model, WHITE, 0, maps=perfect(), steps=16, fill="zero", draws=100)
    assert inserted.curve[1].tolist() == [min(k, 4) / 4 for k in range(17)]
    assert inserted.mean == pytest.approx(7 / 8)
    assert inserted.random_mean == pytest.approx(0.5, abs=0.05)


def test_the_least_salient_pixels_are_removed_and_changes_are_relative() -> None:
    model = FourPixels()
    fractions = [0.25, 0.75, 0.875, 1.0]
    # A map of signs: magnitude decides what is salient, so -1 is as needed as 1.
    maps = perfect()
    maps[1] *= -1
    found = pixel_perturbation(model, torch.cat([WHITE[:1], 0.4 * WHITE[:1]]), 0, maps=maps, fractions=fractions)
    assert found.values.tolist() == [pytest.approx([0, 0, 0.5, 1])] * 2
    assert found.mean.tolist() == pytest.approx([0, 0, 0.5, 1])
    assert found.standard_error.tolist() == pytest.approx([0] * 4, abs=1e-6)
    random = pixel_perturbation(model, WHITE, 0, maps=maps, fractions=fractions, draws=200)
    assert random.random_mean.tolist() == pytest.approx(fractions, abs=0.06)
    opposite = pixel_perturbation(model, WHITE, 0, maps=1 - perfect(), fractions=[0.125, 0.25])
    assert opposite.mean.tolist() == pytest.approx([0.5, 1])


def by_hand(model: nn.Module, image: Tensor, stand_in: Tensor, maps: Tensor, counts: list[int], unit: int) -> list:
    """Sort patches of one image in Python, change their pixels one by one, and call the model."""
    height, width = maps.shape
    patches = {}
    for top in range(0, height, unit):
        for left in range(0, width, unit):
            cells = [(y, x) for y in range(top, min(top + unit, height)) for x in range(left, min(left + unit, width))]
            patches[tuple(cells)] = sum(float(maps[y, x]) for y, x in cells) / len(cells)
    order = sorted(patches, key=lambda cells: -patches[cells])
    scores = []
    for count in counts:
        changed = image.clone()
        for cells in order[:count]:
            for y, x in cells:
                changed[:, y, x] = stand_in[:, y, x]
        scores.append(model(changed[None])[0, 1].item())
    return scores


@pytest.mark.parametrize(("unit", "fill"), [(1, "mean"), (5, "blur"), (3, "noise")])
def test_every_step_equals_a_loop_over_patches(conv_net: nn.Module, images: Tensor, unit: int, fill: str) -> None:
    maps = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(4))
    cells = -(-12 // unit) * -(-16 // unit)
    stand_in = Fill(fill)(images)
    removed = deletion_auc(conv_net, images, 1, maps=maps, steps=4, fill=fill, unit=unit, batch=2)
    added = insertion_auc(conv_net, images, 1, maps=maps, steps=4, fill=Fill(fill), unit=unit)
    counts = [round(step / 4 * cells) for step in range(5)]
    assert removed.fractions.tolist() == pytest.approx([count / cells for count in counts])
    for index in range(3):
        want = by_hand(conv_net, images[index], stand_in[index], maps[index], counts, unit)
        assert removed.curve[index].tolist() == pytest.approx(want, abs=1e-5)
        want = by_hand(conv_net, stand_in[index], images[index], maps[index], counts, unit)
        assert added.curve[index].tolist() == pytest.approx(want, abs=1e-5)
        area = sum((a + b) / 8 for a, b in pairwise(want))
        assert float(added.values[index]) == pytest.approx(area, abs=0.02)


def test_maps_may_be_tensors_attributions_or_any_method(conv_net: nn.Module, images: Tensor) -> None:
    saliency = Saliency()
    found = [saliency, saliency(conv_net, images, 2), saliency(conv_net, images, 2).maps()]
    found.append(lambda model, pictures, target: saliency(model, pictures, target).maps())
    areas = [deletion_auc(conv_net, images, 2, maps=maps).values for maps in found]
    for area in areas[1:]:
        torch.testing.assert_close(area, areas[0])
    torch.testing.assert_close(maps_of(saliency)(conv_net, images, 2), found[2])
    with pytest.raises(UsageError, match=r"Attribution or maps \(B, H, W\), not \(3, 3, 12, 16\)"):
        maps_of(lambda model, pictures, target: pictures)(conv_net, images, 2)
    with pytest.raises(UsageError, match="not list"):
        maps_of(lambda *_: [1.0])(conv_net, images, 2)


def test_a_text_is_the_target_of_the_whole_images(clip_model: Any) -> None:
    images = torch.rand(2, 3, 40, 32, generator=torch.Generator().manual_seed(0))
    texts = ["a cat", "a red apple"]
    maps = torch.rand(2, 40, 32, generator=torch.Generator().manual_seed(1))
    found = insertion_auc(clip_model, images, texts, maps=maps, steps=2, batch=1)
    cosines = attribute(clip_model, images, texts).value
    torch.testing.assert_close(found.curve[:, -1], cosines)
    torch.testing.assert_close(found.curve[:, 0], attribute(clip_model, Fill("blur")(images), texts).value)
    whole = pixel_perturbation(clip_model, images, texts, maps=maps, fractions=[1.0])
    black = attribute(clip_model, torch.zeros_like(images), texts).value
    torch.testing.assert_close(whole.values[:, 0], (black - cosines).abs() / cosines.abs(), rtol=1e-3, atol=1e-5)


def test_none_keeps_the_class_of_the_whole_image(conv_net: nn.Module, images: Tensor) -> None:
    predicted = conv_net(images).argmax(dim=1).tolist()
    maps = torch.rand(3, 12, 16, generator=torch.Generator().manual_seed(4))
    free, fixed = (deletion_auc(conv_net, images, target, maps=maps) for target in (None, predicted))
    torch.testing.assert_close(free.curve, fixed.curve)
    assert not free.curve.requires_grad


def test_bad_input_is_named(conv_net: nn.Module, images: Tensor) -> None:
    maps = torch.rand(3, 12, 16)
    for settings, words in [
        ({"maps": maps[:, :6]}, "maps are .3, 6, 16."),
        ({"maps": maps / 0}, "NaN or infinite"),
        ({"maps": maps, "steps": 0}, "steps must be at least 1"),
        ({"maps": maps, "unit": 0}, "unit must be at least 1"),
        ({"maps": maps, "draws": -1}, "draws at least 0"),
        ({"maps": maps, "fill": "pink"}, "pink"),
        ({"maps": maps, "batch": 0}, "batch must be at least 1"),
    ]:
        with pytest.raises(UsageError, match=words):
            deletion_auc(conv_net, images, 1, **settings)
    assert bool(deletion_auc(conv_net, images, 1, maps=maps, draws=0).random.isnan().all())
    with pytest.raises(UsageError, match="fractions"):
        pixel_perturbation(conv_net, images, 1, maps=maps, fractions=[0.0])
    with pytest.raises(UsageError, match="score of an image is 0"):
        pixel_perturbation(FourPixels(), 0 * WHITE, 0, maps=perfect())
