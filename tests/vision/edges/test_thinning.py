"""Non-maximum suppression of edge maps (p110): ridges at known places, and pixel by pixel without vectors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import thin_edges


def ridge(angle: float, size: int = 32) -> tuple[Tensor, Tensor]:
    """A Gaussian ridge along a line through the middle, and each pixel's distance from the line."""
    y, x = torch.meshgrid(torch.arange(size).double(), torch.arange(size).double(), indexing="ij")
    middle = (size - 1) / 2 + 0.2
    distance = (x - middle) * math.cos(angle) + (y - middle) * math.sin(angle)
    return torch.exp(-(distance**2) / (2 * 2.0**2)), distance.abs()


@pytest.mark.parametrize("degrees", [0, 20, 45, 70, 90, 130, 165])
def test_a_ridge_becomes_a_line_of_one_pixel(degrees: int) -> None:
    probability, distance = ridge(math.radians(degrees))
    thin = thin_edges(probability, border=0) > 0
    inside = torch.zeros_like(thin)
    inside[4:-4, 4:-4] = True  # where the border's repetition bends nothing
    assert float(distance[thin & inside].max()) < 1.0
    # One pixel for each row or column that the line crosses, and the corners of its staircase.
    assert 24 <= int((thin & inside).sum()) <= 2 * 24
    near = ndimage.distance_transform_edt(~thin.numpy())
    assert near[((distance < 0.5) & inside).numpy()].max() <= math.sqrt(2)


def test_equals_a_loop_over_pixels() -> None:
    """Hessian by NumPy's gradients, its eigenvector by LAPACK, interpolation by SciPy."""
    g = torch.Generator().manual_seed(0)
    image = ndimage.gaussian_filter(torch.rand(14, 17, generator=g, dtype=torch.float64).numpy(), 1.5)
    dy, dx = np.gradient(image)
    (dxy, dxx), dyy = np.gradient(dx), np.gradient(dy)[0]
    expected = np.zeros_like(image)
    for y in range(14):
        for x in range(17):
            values, vectors = np.linalg.eigh([[dxx[y, x], dxy[y, x]], [dxy[y, x], dyy[y, x]]])
            across = vectors[:, np.abs(values).argmax()]
            stays = True
            for step in (-2, -1, 1, 2):
                place = [[y + step * across[1]], [x + step * across[0]]]
                neighbour = ndimage.map_coordinates(image, place, order=1, mode="nearest")[0]
                stays &= image[y, x] * 1.01 >= neighbour
            expected[y, x] = image[y, x] * stays
    thin = thin_edges(torch.from_numpy(image), smoothing=0, direction_smoothing=0, radius=2, border=0)
    np.testing.assert_allclose(thin.numpy(), expected, atol=1e-12)


def test_smoothing_is_a_triangle_and_the_border_falls_to_nothing() -> None:
    probability = torch.zeros(1, 13, 13, dtype=torch.float64)
    probability[0, 6, 6] = 9.0
    smooth = thin_edges(probability, smoothing=2, slack=1e9, border=0)[0]
    triangle = torch.tensor([1.0, 2, 3, 2, 1], dtype=torch.float64) / 9
    torch.testing.assert_close(smooth[4:9, 4:9], 9 * torch.outer(triangle, triangle))
    flat = thin_edges(torch.ones(12, 20), border=4)
    assert flat[0].max() == 0
    torch.testing.assert_close(flat[5, :6], torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 1.0]))


def test_any_size_and_any_batch() -> None:
    for size in ((1, 1), (1, 30), (30, 1), (2, 3, 5, 7)):
        assert thin_edges(torch.rand(size)).shape == size
    maps = torch.rand(2, 3, 9, 9)
    torch.testing.assert_close(thin_edges(maps)[1, 2], thin_edges(maps[1, 2]))


def test_settings_out_of_range_are_refused() -> None:
    maps = torch.rand(8, 8)
    for name, value in (("radius", 0), ("smoothing", -1), ("border", -1), ("slack", 0.5), ("slack", math.nan)):
        with pytest.raises(UsageError, match=name):
            thin_edges(maps, **{name: value})  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="float32 or float64"):
        thin_edges(torch.ones(4, 4, dtype=torch.int64))
