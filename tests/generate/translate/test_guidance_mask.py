"""Contrastive masks (p022, arXiv 2406.01555): their values, regions known by construction, cells of a grid."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.generate import anchor_masks, contrastive_mask, training_masks

BEHIND = 125 / 255


def test_masks_of_one_kind_are_united_and_the_rest_is_unknown() -> None:
    mirror = torch.zeros(2, 1, 1, 4, dtype=torch.bool)
    mirror[0, ..., 0] = mirror[1, ..., 1] = True
    behind = torch.tensor([[[False, False, False, True]]])
    assert contrastive_mask(mirror, behind).flatten().tolist() == pytest.approx([1.0, 1.0, 0.0, BEHIND])
    assert contrastive_mask(transmission=behind).flatten().tolist() == pytest.approx([0.0, 0.0, 0.0, BEHIND])


def test_the_brightest_region_is_reflected_and_the_one_most_alike_transmitted() -> None:
    transmission = torch.full((1, 3, 32, 32), 0.2)
    residual = torch.full((32, 32), 0.05)
    residual[0:8, 0:8] = 0.2  # large and bright
    residual[0:8, 20:28] = 0.3  # large and brighter: this one
    residual[20, 0:3] = 0.9  # brightest, but smaller than 400 of 224 x 224 pixels, that is 8.2 here
    residual[20:28, 20:28] = 0.02
    residual[28:31, 0:4] = 0.0  # alike and large enough: this one
    images = transmission + residual
    mask = training_masks(images, transmission, probability=1.0)[0, 0]
    expected = torch.zeros(32, 32)
    expected[0:8, 20:28] = 1.0
    expected[28:31, 0:4] = BEHIND
    torch.testing.assert_close(mask, expected)
    assert not training_masks(images, transmission, probability=0.0).any()


def test_regions_are_connected_along_diagonals() -> None:
    transmission = torch.zeros(1, 3, 16, 16)
    images = torch.full((1, 3, 16, 16), 0.05)
    for i in range(16):
        images[:, :, i, i] = 0.5
    assert int((training_masks(images, transmission, probability=1.0) == 1).sum()) == 16


def test_marks_are_drawn_for_each_picture_and_kind() -> None:
    images, transmission = torch.zeros(400, 3, 8, 8), torch.zeros(400, 3, 8, 8)
    images[..., :4] = 0.5
    masks = training_masks(images, transmission, generator=torch.Generator().manual_seed(0))
    mirror, behind = (masks == 1).flatten(1).any(1), ((masks > 0) & (masks < 1)).flatten(1).any(1)
    for rate, expected in ((mirror, 0.5), (behind, 0.5), (mirror & behind, 0.25)):
        assert float(rate.float().mean()) == pytest.approx(expected, abs=0.08)


def test_cells_reflected_in_part_are_transmitted_as_released_or_go_by_what_covers_them() -> None:
    mask = torch.zeros(1, 1, 4, 8)
    mask[..., 0:4, 0:4] = 1.0  # a whole cell ...
    mask[..., 2, 4:8] = 1.0  # the middle rows, at which a bilinear resize looks, are half reflected
    behind, mirror = anchor_masks(mask, (1, 2))
    assert mirror.flatten().tolist() == [True, False]
    assert behind.flatten().tolist() == [False, True]
    behind, mirror = anchor_masks(mask, (1, 2), coverage=0.5)
    assert mirror.flatten().tolist() == [True, False]
    assert not behind.any()
    assert anchor_masks(mask, (1, 2), coverage=0.2)[1].flatten().tolist() == [True, True]


def test_mistakes_are_named() -> None:
    one = torch.ones(1, 2, 2, dtype=torch.bool)
    with pytest.raises(UsageError, match="of one kind at least"):
        contrastive_mask()
    with pytest.raises(UsageError, match="one size"):
        contrastive_mask(one, one[..., :1])
    with pytest.raises(UsageError, match="overlap"):
        contrastive_mask(one, one)
    with pytest.raises(UsageError, match="one shape"):
        training_masks(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 5))
    with pytest.raises(UsageError, match="probability"):
        training_masks(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3, 4, 4), probability=1.5)
    with pytest.raises(UsageError, match="coverage"):
        anchor_masks(torch.zeros(1, 1, 4, 4), (2, 2), coverage=1.0)
