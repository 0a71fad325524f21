"""Regions: conversions between boxes, masks and points, in pixels."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.adapt import Region, as_regions
from binderclip.errors import UsageError


def test_a_box_is_half_open_and_cut_at_the_border_not_moved() -> None:
    assert Region((2, 1, 6, 4)).inside("box", 8, 10).sum() == 4 * 3
    assert Region((-5, -5, 3, 4)).bounds(8, 10) == (0, 0, 3, 4)
    assert Region((7, 5, 99, 99)).bounds(8, 10) == (7, 5, 10, 8)
    # Less than a pixel is still a pixel.
    assert Region((3.2, 3.2, 3.4, 3.3)).bounds(8, 10) == (3, 3, 4, 4)


def test_the_box_of_a_mask_is_tight() -> None:
    mask = np.zeros((9, 12), dtype=bool)
    mask[2, 3] = mask[6, 8] = True
    assert Region(mask=mask).bounds(9, 12) == (3, 2, 9, 7)
    assert (Region(mask=mask).inside("mask", 9, 12) == mask).all()


def test_the_ellipse_is_inscribed() -> None:
    inside = Region((4, 6, 44, 26)).inside("ellipse", 40, 50)
    rows, columns = np.nonzero(inside)
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (4, 44, 6, 26)
    # Area of the ellipse with half axes 20 and 10.
    assert inside.sum() == pytest.approx(np.pi * 20 * 10, rel=0.03)


def test_a_point_is_a_circle_of_six_hundredths_of_the_shorter_side() -> None:
    region = Region(point=(60, 40))
    inside = region.inside("keypoint", 100, 200)
    assert inside.sum() == pytest.approx(np.pi * 6**2, rel=0.1)
    rows, columns = np.nonzero(inside)
    assert (columns.min(), columns.max() + 1, rows.min(), rows.max() + 1) == (54, 66, 34, 46)
    assert region.bounds(100, 200) == (54, 34, 66, 46)


def test_scaling_treats_each_axis_by_itself() -> None:
    mask = np.zeros((10, 20), dtype=bool)
    mask[2:6, 4:12] = True
    region = Region((4, 2, 12, 6), mask, (8, 4)).scaled((10, 20), (30, 40))
    assert region.box == (8, 6, 24, 18)
    assert region.point == (16, 12)
    assert region.mask is not None
    rows, columns = np.nonzero(region.mask)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (8, 6, 24, 18)
    tiny = np.zeros((64, 64), dtype=bool)
    tiny[40, 20] = True
    small = Region(mask=tiny).scaled((64, 64), (8, 8)).mask
    assert small is not None
    assert np.argwhere(small).tolist() == [[5, 2]]


def test_flipping_twice_is_nothing() -> None:
    mask = np.random.default_rng(0).random((6, 9)) > 0.5
    twice = Region((1, 2, 5, 4), mask, (3, 3)).flipped(9).flipped(9)
    assert (twice.box, twice.point) == ((1, 2, 5, 4), (3, 3))
    assert (twice.mask == mask).all()


def test_regions_come_from_plain_numbers_and_masks() -> None:
    mask = np.ones((3, 5), dtype=bool)
    box, point, area = as_regions([[0, 0, 2, 2], (1, 1), mask])
    assert (box.box, point.point) == ((0, 0, 2, 2), (1, 1))
    assert area.mask is not None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Region(), "needs a box"),
        (lambda: Region((5, 0, 5, 3)), "is empty"),
        (lambda: Region((0, 0, 5)), "4 finite numbers"),
        (lambda: Region((0, 0, float("nan"), 1)), "4 finite numbers"),
        (lambda: Region(mask=np.zeros((4, 4))), "at least one pixel"),
        (lambda: Region((20, 0, 30, 5), name="a car").bounds(10, 10), "'a car' lies outside the image of 10 x 10"),
        (lambda: Region(point=(50, 5)).centre(10, 10), "lies outside"),
        (lambda: Region(mask=np.ones((4, 4))).bounds(5, 5), "mask is 4 x 4 pixels, the image 5 x 5"),
        (lambda: Region((0, 0, 1, 1)).inside("star", 5, 5), "shape must be one of"),
        (lambda: as_regions([]), "regions is empty"),
        (lambda: as_regions([(1, 2, 3)]), "a region is"),
    ],
)
def test_mistakes_are_named(make, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        make()
