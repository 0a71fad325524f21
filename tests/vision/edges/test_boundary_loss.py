"""The loss of boundary attention (p063): nothing at the truth, a loop over patches, and what a gradient may reach."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import BoundaryLoss, BoundaryMaps, JunctionField, render_boundaries

TERMS = (
    "features", "distance", "patch_features", "patch_distance", "feature_consistency", "boundary_consistency"
)  # fmt: skip
OFF = dict.fromkeys(TERMS, 0.0)


def example() -> tuple[BoundaryMaps, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    images, clean = torch.rand(2, 1, 2, 7, 8, generator=g, dtype=torch.float64)
    field = JunctionField.from_raw(torch.randn(1, 7, 5, 6, generator=g, dtype=torch.float64))
    mask = torch.rand(1, 3, 3, 5, 6, generator=g, dtype=torch.float64)
    maps = render_boundaries(field, images, 3, mask=mask, eta=0.1, delta=0.1)
    distances, junctions = torch.rand(2, 1, 7, 8, generator=g, dtype=torch.float64)
    return maps, clean, distances * 3, junctions


def test_each_term_equals_a_loop_over_pixels_and_patches() -> None:
    maps, clean, distances, junctions = example()
    d, m, truth = distances[0].numpy(), junctions[0].numpy(), clean[0].numpy()
    pixel = np.exp(-0.1 * (d + 1)) * (m + 0.3)
    features, distance, boundary = maps.features[0].numpy(), maps.distance[0].numpy(), maps.boundary[0].numpy()
    expected = {
        "features": (pixel * ((features - truth) ** 2).sum(0)).sum(),
        "distance": (pixel * (distance - d) ** 2).sum(),
        **dict.fromkeys(("patch_features", "patch_distance", "feature_consistency", "boundary_consistency"), 0.0),
    }
    for i in range(5):
        for j in range(6):
            at = np.s_[i : i + 3, j : j + 3]
            mask = maps.mask[0, ..., i, j].numpy()
            weight = mask / (mask.sum() + 1e-4) * pixel[at] / (d[at] + 0.3).sum()
            patch = maps.feature_patches[0, ..., i, j].numpy()
            expected["patch_features"] += (weight * ((patch - truth[(slice(None), *at)]) ** 2).sum(0)).sum()
            expected["feature_consistency"] += (weight * ((patch - features[(slice(None), *at)]) ** 2).sum(0)).sum()
            gap = maps.distance_patches[0, ..., i, j].numpy() - d[at]
            expected["patch_distance"] += (weight * gap**2).sum()
            gap = maps.boundary_patches[0, ..., i, j].numpy() - boundary[at]
            expected["boundary_consistency"] += (weight * gap**2).sum()
    for name, value in expected.items():
        own = BoundaryLoss(**(OFF | {name: 1.0}))([maps], clean, distances, junctions)
        assert float(own) == pytest.approx(value / 56), name
    whole = BoundaryLoss()([maps], clean, distances, junctions)
    weights = {"features": 1, "distance": 1e-3, "patch_features": 1, "patch_distance": 1e-3,
               "feature_consistency": 20, "boundary_consistency": 1e-2}  # fmt: skip
    assert float(whole) == pytest.approx(sum(weights[name] * value for name, value in expected.items()) / 56)


def test_nothing_is_left_at_the_truth() -> None:
    maps, *_ = example()
    patches = dataclasses.replace(
        maps,
        feature_patches=maps.features.unfold(2, 3, 1).unfold(3, 3, 1).permute(0, 1, 4, 5, 2, 3),
        distance_patches=maps.distance.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 3, 4, 1, 2),
        boundary_patches=maps.boundary.unfold(1, 3, 1).unfold(2, 3, 1).permute(0, 3, 4, 1, 2),
    )
    assert float(BoundaryLoss()([patches], maps.features, maps.distance)) == 0


def test_consistency_moves_patches_not_maps() -> None:
    maps, clean, distances, _ = example()
    leaf = maps.features.clone().requires_grad_()
    patches = maps.feature_patches.clone().requires_grad_()
    moved = dataclasses.replace(maps, features=leaf, feature_patches=patches)
    BoundaryLoss(**(OFF | {"feature_consistency": 1.0}))([moved], clean, distances).backward()
    assert leaf.grad is not None
    assert patches.grad is not None
    assert float(leaf.grad.abs().max()) == 0
    assert float(patches.grad.abs().max()) > 0


def test_earlier_outputs_weigh_less_and_edges_weigh_more() -> None:
    maps, clean, distances, junctions = example()
    other = dataclasses.replace(maps, features=maps.features + 1)
    loss = BoundaryLoss()
    first, last = (float(loss([one], clean, distances)) for one in (other, maps))
    pair = float(loss([other, maps], clean, distances))
    assert pair == pytest.approx((0.09 * first + 0.3 * last) / 0.39)
    only = BoundaryLoss(**(OFF | {"distance": 1.0}))
    off = dataclasses.replace(maps, distance=distances + 1)
    near, far = (float(only([dataclasses.replace(off, distance=d + 1)], clean, d)) for d in (distances, distances + 10))
    assert far == pytest.approx(near * math.exp(-1))
    assert float(only([off], clean, distances, junctions)) < near


def test_what_does_not_fit_is_refused() -> None:
    maps, clean, distances, _ = example()
    with pytest.raises(UsageError, match="one iteration at least"):
        BoundaryLoss()([], clean, distances)
    with pytest.raises(UsageError, match=r"clean must be \(1, 2, 7, 8\)"):
        BoundaryLoss()([maps], clean[..., :5], distances)
    for name, value in (("features", -1.0), ("constant", 0.0), ("decay", math.nan)):
        with pytest.raises(UsageError, match=name):
            BoundaryLoss(**{name: value})
