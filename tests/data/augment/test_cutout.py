"""Cutout (p155, arXiv 1708.04552) against enumeration, a closed form, torchvision's erase and hand-made masks."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.transforms.v2.functional import erase

from binderclip.data import Augment, Cutout, Fill
from binderclip.data.augment.augment import PLAIN
from binderclip.errors import UsageError


def keys(n: int) -> list[str]:
    return [f"k{i}" for i in range(n)]


def mean_length(side: int, extent: int) -> float:
    """Mean visible length of an even side whose centre is uniform over `extent` pixels, in closed form."""
    half = side // 2
    before = sum(max(0, half - k) for k in range(half))
    after = sum(max(0, k + half - extent) for k in range(extent - half, extent))
    return side - (before + after) / extent


def test_the_hole_is_what_torchvision_erases_at_the_same_box() -> None:
    images = torch.rand(8, 3, 20, 30)
    cut = Cutout(8, fill=(0.1, 0.2, 0.3), seed=3)
    got = cut(images, keys(8), epoch=2)
    for image, result, ((x0, y0, x1, y1),) in zip(images, got, cut.boxes(keys(8), (20, 30), epoch=2), strict=True):
        colour = torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
        assert torch.equal(result, erase(image, y0, x0, y1 - y0, x1 - x0, colour))
        assert (result == colour).all(0).sum() == (y1 - y0) * (x1 - x0)


def test_centres_are_uniform_and_the_removed_area_is_the_closed_form() -> None:
    height, width, side, n = 12, 16, 8, 20_000
    x0, y0, x1, y1 = Cutout(side).boxes(keys(n), (height, width))[:, 0].T
    area = (x1 - x0) * (y1 - y0)
    # enumeration over all centres, and the closed form, agree; the sample lies within three standard errors of both
    lengths = {extent: [min(k + 4, extent) - max(k - 4, 0) for k in range(extent)] for extent in (height, width)}
    assert np.mean(lengths[height]) == pytest.approx(mean_length(side, height))
    areas = np.outer(lengths[height], lengths[width])
    assert areas.mean() == pytest.approx(mean_length(side, height) * mean_length(side, width))
    assert abs(area.mean() - areas.mean()) < 3 * areas.std() / n**0.5
    centres = np.where(y0 > 0, y0 + 4, y1 - 4)
    counts = np.bincount(centres, minlength=height)
    assert ((counts - n / height) ** 2 / (n / height)).sum() < 31.3  # chi-square, 11 degrees of freedom, p = 0.001


def test_length_zero_changes_nothing_and_a_huge_one_leaves_nothing() -> None:
    images = torch.rand(5, 2, 9, 7)
    assert torch.equal(Cutout(0)(images, keys(5)), images)
    assert not Cutout(20)(images, keys(5)).any()
    assert torch.equal(Cutout(20, p=0.0)(images, keys(5)), images)


def test_an_odd_side_removes_one_pixel_less_unless_exact() -> None:
    for exact, wanted in ((False, 4), (True, 5)):
        x0, y0, x1, y1 = Cutout(5, exact=exact, inside=True).boxes(keys(50), (16, 16))[:, 0].T
        assert set(x1 - x0) == set(y1 - y0) == {wanted}
    assert Cutout(0.5).side(32, 48) == 16


def test_inside_keeps_every_hole_whole_and_reaches_both_borders() -> None:
    x0, y0, x1, y1 = Cutout(6, inside=True).boxes(keys(500), (10, 14))[:, 0].T
    assert (x0.min(), x1.max(), y0.min(), y1.max()) == (0, 14, 0, 10)
    assert set(x1 - x0) == set(y1 - y0) == {6}


def test_p_is_the_share_of_pictures_with_a_hole() -> None:
    boxes = Cutout(4, p=0.3, inside=True).boxes(keys(4000), (8, 8))[:, 0]
    assert abs((boxes[:, 2] > boxes[:, 0]).mean() - 0.3) < 3 * (0.3 * 0.7 / 4000) ** 0.5


def test_several_holes_are_the_union_of_their_boxes() -> None:
    cut = Cutout(6, n_holes=3, seed=1)
    got = cut(torch.ones(6, 1, 24, 24), keys(6))[:, 0]
    for picture, boxes in zip(got, cut.boxes(keys(6), (24, 24)), strict=True):
        expected = torch.ones(24, 24)
        for x0, y0, x1, y1 in boxes:
            expected[y0:y1, x0:x1] = 0
        assert torch.equal(picture, expected)


def test_a_hole_depends_on_seed_key_and_epoch_only_and_each_picture_has_its_own() -> None:
    cut = Cutout(8, seed=4)
    boxes = cut.boxes(keys(40), (32, 32))
    assert np.array_equal(cut.boxes(["k7", "k3"], (32, 32)), boxes[[7, 3]])
    assert len({tuple(box[0]) for box in boxes}) > 30
    for other in (cut.boxes(keys(40), (32, 32), epoch=1), dataclasses.replace(cut, seed=5).boxes(keys(40), (32, 32))):
        assert (other != boxes).any(2).mean() > 0.9


def test_augment_cuts_last_with_a_colour_and_leaves_its_own_draws_alone() -> None:
    pixels = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    cut = Cutout(10, fill=(0.4, 0.5, 0.6), seed=9)
    plain, holed = Augment(24, seed=9), Augment(24, seed=9, cutout=cut)
    assert torch.equal(holed(pixels, keys(6), 1), cut(plain(pixels, keys(6), 1), keys(6), 1))
    # The place of a hole tells nothing about the crop, although seed, key and epoch are the same.
    from binderclip.data.uniform import uniform

    many = keys(3000)
    x0 = Cutout(2, inside=True, seed=9).boxes(many, (64, 64))[:, 0, 0]
    draws = uniform(9, many, 0, 6)
    assert max(abs(np.corrcoef(x0, column)[0, 1]) for column in draws.T) < 0.07


def test_a_fill_may_be_the_mean_of_each_picture() -> None:
    images = torch.rand(3, 3, 8, 8)
    assert torch.allclose(
        Cutout(16, fill=Fill("mean"))(images, keys(3)), images.mean((2, 3), keepdim=True).expand_as(images)
    )


def test_gradients_stop_at_the_hole() -> None:
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    cut = Cutout(4)
    cut(images, keys(2)).sum().backward()
    assert torch.equal(images.grad[:, 0] > 0, cut.keep(keys(2), (8, 8)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"length": 1.5}, "length is 1.5"),
        ({"length": -2}, "length is -2"),
        ({"length": 4, "n_holes": 0}, "n_holes is 0"),
        ({"length": 4, "p": 1.2}, "p is 1.2"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Cutout(**settings)


def test_wrong_calls_are_refused() -> None:
    with pytest.raises(UsageError, match="1 keys for 2 pictures"):
        Cutout(4)(torch.rand(2, 3, 8, 8), ["a"])
    with pytest.raises(UsageError, match="float images"):
        Cutout(4)(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), ["a"])
    with pytest.raises(UsageError, match="2 numbers for images of 3 channels"):
        Cutout(4, fill=(0.0, 1.0))(torch.rand(1, 3, 8, 8), ["a"])
    with pytest.raises(UsageError, match="cutout is 16"):
        Augment(8, **PLAIN, cutout=16)
