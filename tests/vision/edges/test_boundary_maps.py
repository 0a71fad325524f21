"""Gather and fold (p063): exact junctions of a known picture leave nothing over, and one wedge is a mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import BoundaryMaps, JunctionField, render_boundaries
from binderclip.vision.edges.boundary_maps import square_masks


def three_wedges(size: int = 24, patch: int = 7) -> tuple[Tensor, JunctionField, Tensor]:
    """A picture of three sectors in float64, the exact junction of each of its patches, and the exact distances."""
    place = torch.tensor([11.3, 12.2], dtype=torch.float64)  # of the vertex in pixels, between centres
    openings = torch.tensor([2.0, 1.7, 2 * math.pi - 3.7], dtype=torch.float64)
    ends = size - patch + 1
    middle = torch.arange(ends, dtype=torch.float64) + (patch - 1) / 2
    x, y = torch.meshgrid(middle, middle, indexing="xy")
    vertex = (place[:, None, None] - torch.stack([x, y])) / ((patch - 1) / 2)
    field = JunctionField.of_angles(
        torch.full((1, ends, ends), 0.5, dtype=torch.float64),
        openings[None, :, None, None].expand(1, 3, ends, ends),
        vertex[None],
    )
    at = torch.arange(size, dtype=torch.float64)
    whole = JunctionField.of_angles(
        torch.full((1, 1, 1), 0.5, dtype=torch.float64),
        openings[None, :, None, None],
        ((place - (size - 1) / 2) / ((size - 1) / 2))[None, :, None, None],
    )
    sector = (torch.atan2(at[:, None] - place[1], at - place[0]) - 0.5) % (2 * math.pi)
    region = torch.bucketize(sector, openings.cumsum(0)[:2])
    colours = torch.tensor([[0.1, 0.9, 0.4], [0.8, 0.2, 0.6], [0.3, 0.5, 0.7]], dtype=torch.float64)
    return colours[region].permute(2, 0, 1)[None], field, whole.distance(size)[..., 0, 0]


def test_exact_junctions_give_the_picture_and_its_distances() -> None:
    images, field, distances = three_wedges()
    maps = render_boundaries(field, images, 7, eta=1e-12)
    torch.testing.assert_close(maps.features, images, atol=1e-4, rtol=0)
    torch.testing.assert_close(maps.distance, distances, atol=1e-5, rtol=1e-5)
    assert float(maps.probability(0.5).max()) > 0.9
    mask = square_masks(7, (3,))[0].double()[None, :, :, None, None].expand(1, 7, 7, 18, 18)
    masked = render_boundaries(field, images, 7, mask=mask, eta=1e-12)
    torch.testing.assert_close(masked.features[..., 2:-2, 2:-2], images[..., 2:-2, 2:-2], atol=1e-4, rtol=0)
    assert float(masked.density[0, 0, 0]) == 0  # in no mask
    turned = JunctionField(field.heading.flip(1), field.openings, field.vertex)
    assert float((render_boundaries(turned, images, 7, eta=1e-12).features - images).abs().mean()) > 0.01


def test_a_vertex_far_away_leaves_the_mean_of_the_patch() -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.rand(1, 2, 5, 5, generator=g, dtype=torch.float64)
    field = JunctionField.of_angles(
        torch.zeros(1, 1, 1, dtype=torch.float64),
        torch.ones(1, 3, 1, 1, dtype=torch.float64),
        torch.full((1, 2, 1, 1), 50.0, dtype=torch.float64),
    )
    maps = render_boundaries(field, images, 5, eta=1e-9)
    torch.testing.assert_close(maps.features, images.mean((2, 3), keepdim=True).expand_as(images), atol=1e-5, rtol=0)


def test_folding_equals_a_loop_over_patches() -> None:
    g = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 8, 9, generator=g, dtype=torch.float64)
    raw = torch.randn(2, 7, 4, 5, generator=g, dtype=torch.float64)
    mask = torch.rand(2, 5, 5, 4, 5, generator=g, dtype=torch.float64)
    field = JunctionField.from_raw(raw)
    maps: BoundaryMaps = render_boundaries(field, images, 5, mask=mask, eta=0.2, delta=0.1)
    wedges = field.wedges(5, eta=0.2).numpy()
    total, density = np.zeros((2, 3, 8, 9)), np.zeros((2, 8, 9))
    for b in range(2):
        for i in range(4):
            for j in range(5):
                patch, m, w = (
                    images[b, :, i : i + 5, j : j + 5].numpy(),
                    mask[b, ..., i, j].numpy(),
                    wedges[b, ..., i, j],
                )
                colours = np.einsum("cij,kij,ij->kc", patch, w, m) / np.einsum("kij,ij->k", w, m)[:, None]
                total[b, :, i : i + 5, j : j + 5] += np.einsum("kij,kc,ij->cij", w, colours, m)
                density[b, i : i + 5, j : j + 5] += m
    np.testing.assert_allclose(maps.features.numpy(), total / (density + 1e-5)[:, None], rtol=1e-6)
    np.testing.assert_allclose(maps.density.numpy(), density)


def test_masks_are_squares_in_the_middle() -> None:
    masks = square_masks(5, (1, 3, 5))
    assert masks.sum((1, 2)).tolist() == [1, 9, 25]
    assert masks[1, 1:4, 1:4].min() == 1
    for sides in ((2,), (7,), ()):
        with pytest.raises(UsageError, match="sides must be"):
            square_masks(5, sides)


def test_what_does_not_fit_is_refused() -> None:
    images, field, _ = three_wedges()
    with pytest.raises(UsageError, match=r"junctions must be of 1 x 20 x 20 patches of side 5, not of 1 x 18 x 18"):
        render_boundaries(field, images, 5)
    with pytest.raises(UsageError, match="eta"):
        render_boundaries(field, images, 7, eta=-1)
    with pytest.raises(UsageError, match="delta"):
        render_boundaries(field, images, 7).probability(0)
