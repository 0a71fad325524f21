"""Overlapping shapes (p063, arXiv 2401.00935): distances against sampled outlines, and what a seed fixes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial import cKDTree

from binderclip.data import kaleidoshapes, region_edges
from binderclip.data.made.kaleidoshapes import _Disc, _junctions, _Triangle
from binderclip.errors import UsageError


def outline(shape: _Disc | _Triangle, count: int = 4000) -> np.ndarray:
    """Points on an outline, densely."""
    t = np.linspace(0, 1, count, endpoint=False)[:, None]
    if isinstance(shape, _Disc):
        angle = 2 * math.pi * t[:, 0]
        return shape.centre + shape.radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return np.concatenate([start + t * (end - start) for start, end in shape.sides()])


def inside(shape: _Disc | _Triangle, points: np.ndarray) -> np.ndarray:
    """Another way to tell: by radius, or by barycentric coordinates."""
    if isinstance(shape, _Disc):
        return np.linalg.norm(points - shape.centre, axis=-1) < shape.radius
    a, b, c = shape.corners
    weights = np.einsum("ij,...j->...i", np.linalg.inv(np.stack([b - a, c - a], axis=1)), points - a)
    return (weights > 0).all(-1) & (weights.sum(-1) < 1)


@pytest.mark.parametrize("seed", range(3))
def test_distances_are_to_the_nearest_visible_outline(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """The shapes of a picture, caught as they are drawn, with every outline sampled where no later shape hides it."""
    import binderclip.data.made.kaleidoshapes as module

    caught: list[list[_Disc | _Triangle]] = []
    monkeypatch.setattr(module, "_junctions", lambda shapes: caught.append(shapes) or [])
    pictures = kaleidoshapes(seed, 1, size=(40, 56), shapes=(4, 7))
    shapes = caught[0]
    seen = []
    for k, shape in enumerate(shapes):
        points = outline(shape)
        hidden = np.zeros(len(points), dtype=bool)
        for later in shapes[k + 1 :]:
            hidden |= inside(later, points)
        seen.append(points[~hidden])
    places = np.concatenate(seen)
    grid = np.stack(np.meshgrid(np.arange(56), np.arange(40)), axis=-1).reshape(-1, 2)
    expected = cKDTree(places).query(grid)[0].reshape(40, 56)
    np.testing.assert_allclose(pictures.distances[0].numpy(), expected, atol=0.02)
    regions = np.zeros((40, 56), dtype=int)
    for k, shape in enumerate(shapes, start=1):
        regions[inside(shape, grid).reshape(40, 56)] = k
    assert (pictures.regions[0].numpy() == regions).all()


def test_edges_lie_where_the_distance_is_small() -> None:
    pictures = kaleidoshapes(5, 4, size=(48, 48), shapes=(3, 6))
    assert float(pictures.distances[pictures.edges].max()) <= 1.0
    # And each region has one colour.
    for image, regions in zip(pictures.images, pictures.regions, strict=True):
        for k in regions.unique():
            assert len(image[:, regions == k].T.unique(dim=0)) == 1


def test_edges_of_regions_equal_a_morphological_gradient() -> None:
    regions = kaleidoshapes(6, 1, size=(32, 40), shapes=(4, 4)).regions[0]
    footprint = np.array([[0, 0, 0], [0, 1, 1], [0, 1, 0]], dtype=bool)
    high = ndimage.maximum_filter(regions.numpy(), footprint=footprint, mode="nearest")
    low = ndimage.minimum_filter(regions.numpy(), footprint=footprint, mode="nearest")
    assert (region_edges(regions).numpy() == (high != low)).all()


def test_junctions_of_known_shapes() -> None:
    disc, other = _Disc(np.array([10.0, 10.0]), 5.0), _Disc(np.array([16.0, 10.0]), 5.0)
    places = _junctions([disc, other])
    np.testing.assert_allclose(sorted(tuple(place) for place in places), [(13, 6), (13, 14)])
    triangle = _Triangle(np.array([[10.0, 10.0], [30.0, 10.0], [10.0, 30.0]]))
    corners = {tuple(place) for place in _junctions([triangle])}
    assert corners == {(10, 10), (30, 10), (10, 30)}
    # The disc in front hides the right angle; its outline meets both legs at 5 pixels from there.
    meet = {tuple(np.round(place, 6)) for place in _junctions([triangle, disc])}
    assert meet == {(30, 10), (10, 30), (15, 10), (10, 15)}
    # Behind the triangle the disc's crossings stay, and the corner is seen.
    assert {tuple(np.round(p, 6)) for p in _junctions([disc, triangle])} == corners | {(15, 10), (10, 15)}
    shifted = _Triangle(triangle.corners + 4)
    # All corners are seen, and the hypotenuse of the one behind runs under both legs of the one in front.
    assert len(_junctions([triangle, shifted])) == 3 + 3 + 2
    assert len(_junctions([shifted, triangle])) == 2 + 3 + 2  # and now the right angle behind is hidden


def test_pictures_depend_on_their_seed_and_number_alone() -> None:
    few, many = (kaleidoshapes(7, n, size=(24, 24), shapes=(2, 4)) for n in (2, 4))
    torch.testing.assert_close(few.images, many.images[:2])
    torch.testing.assert_close(few.junction_weight, many.junction_weight[:2])
    assert not torch.equal(few.images, kaleidoshapes(8, 2, size=(24, 24), shapes=(2, 4)).images)
    assert len(kaleidoshapes(7, 0, size=(24, 24)).images) == 0
    plain = kaleidoshapes(7, 1, size=(24, 30), shapes=(0, 0))
    assert float(plain.images.std((2, 3)).max()) == 0
    assert not bool(plain.edges.any())
    assert bool(plain.distances.isfinite().all())


def test_noise_has_its_level_and_stays_in_range() -> None:
    pictures = kaleidoshapes(9, 3, size=(64, 64), shapes=(2, 3))
    noisy = pictures.noisy((0.05, 0.05), generator=torch.Generator().manual_seed(0))
    middle = (pictures.images > 0.3) & (pictures.images < 0.7)
    assert float((noisy - pictures.images)[middle].std()) == pytest.approx(0.05, rel=0.05)
    assert 0 <= float(noisy.min()) <= float(noisy.max()) <= 1
    torch.testing.assert_close(pictures.noisy((0, 0)), pictures.images)


def test_settings_out_of_range_are_refused() -> None:
    for name, settings in (
        ("seed", {"seed": -1}),
        ("n", {"n": 1.5}),
        ("size", {"size": (8, 64)}),
        ("shapes", {"shapes": (3, 2)}),
        ("circles", {"circles": math.nan}),
    ):
        with pytest.raises(UsageError, match=name):
            kaleidoshapes(**({"seed": 0, "n": 1} | settings))  # type: ignore[arg-type]
    pictures = kaleidoshapes(0, 1, size=(16, 16), shapes=(1, 1))
    for level in ((-0.1, 0.2), (0.3, 0.2), (0.1, math.inf)):
        with pytest.raises(UsageError, match="level"):
            pictures.noisy(level)
