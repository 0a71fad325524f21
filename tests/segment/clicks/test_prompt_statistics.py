"""Geometry of prompts (p019), against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from binderclip.errors import UsageError
from binderclip.segment.clicks import object_features, prompt_features
from binderclip.segment.clicks.prompt_statistics import hull_mask

MASK = np.zeros((40, 60), dtype=bool)
MASK[10:30, 20:50] = True
CORNERS = np.array([[20, 10], [50, 10], [20, 30], [50, 30]])


def test_corners_of_a_rectangle_cover_it():
    found = prompt_features(CORNERS, np.zeros((0, 2)), MASK)
    assert found["coverage"] == 1
    assert found["efficiency"] == 0.25
    assert found["max spread"] == pytest.approx(1)
    assert found["mean spread"] == pytest.approx(20 / np.hypot(20, 30))
    assert found["exclusion spread"] == found["distance"] == found["encasing exclusion"] == 0
    half = prompt_features(np.array([[20, 10], [50, 10], [20, 30]]), np.zeros((0, 2)), MASK)
    assert half["coverage"] == pytest.approx(0.5, abs=0.03)
    assert prompt_features(CORNERS[:2], np.zeros((0, 2)), MASK)["coverage"] == 0
    assert prompt_features(np.array([[20, 10], [30, 10], [40, 10]]), np.zeros((0, 2)), MASK)["coverage"] == 0


def test_chamfer_and_distances_by_brute_force():
    rng = np.random.default_rng(0)
    inside, outside = rng.random((5, 2)) * [30, 20] + [20, 10], rng.random((3, 2)) * [15, 8]
    found = prompt_features(inside, outside, MASK)
    there = np.mean([min(np.hypot(*(a - b)) for b in outside) for a in inside])
    back = np.mean([min(np.hypot(*(a - b)) for a in inside) for b in outside])
    assert found["distance"] == pytest.approx((there + back) / 2 / np.hypot(40, 60))
    pixels = np.argwhere(MASK)
    away = np.mean([np.hypot(*(pixels - [int(y), int(x)]).T).min() for x, y in outside])
    assert found["encasing exclusion"] == pytest.approx(away / np.hypot(40, 60))
    rest = np.argwhere(~MASK)
    depth = np.mean([np.hypot(*(rest - [int(y), int(x)]).T).min() for x, y in inside])
    assert found["encasing inclusion"] == pytest.approx(depth / np.hypot(20, 30))


def test_the_area_of_a_hull():
    points = np.random.default_rng(1).random((12, 2)) * [200, 150]
    assert hull_mask(points, (150, 200)).sum() == pytest.approx(ConvexHull(points).volume, rel=0.02)


def test_objects_have_size_and_texture():
    pytest.importorskip("skimage")
    flat = object_features(np.full((40, 60), 0.5), MASK)
    assert flat["fraction"] == pytest.approx(MASK.mean())
    assert flat["components"] == 1
    assert flat["contrast"] == flat["edges"] == 0
    stripes = np.tile(np.arange(60) % 2, (40, 1)).astype(float)
    striped = object_features(stripes, MASK)
    assert striped["contrast"] == pytest.approx(63**2)  # along rows every pair differs, along columns none
    with pytest.raises(UsageError):
        object_features(stripes, MASK & False)
    with pytest.raises(UsageError, match="inclusion point"):
        prompt_features(np.zeros((0, 2)), CORNERS, MASK)
