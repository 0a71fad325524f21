"""Cross-sections of meshes and areas inside of lines: against closed forms, scikit-image and points one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from binderclip.errors import UsageError
from binderclip.vision import (
    PlanarSlice,
    TriangleMesh,
    fill_segments,
    level_surface,
    mesh_section,
    picture_slice,
    resample_contour,
)
from binderclip.vision.fields.sections import contour_segments


def polygon(count: int = 7, radius: float = 1.0) -> torch.Tensor:
    angles = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    return radius * torch.stack([angles.cos(), angles.sin()], 1)


def test_points_inside_of_lines_are_those_of_a_ray_each() -> None:
    rng = np.random.default_rng(0)
    star = polygon(9) * torch.tensor(rng.uniform(0.3, 1.0, (9, 1)))
    part = PlanarSlice.horizontal([star, polygon(5, 0.2)], 0.0)  # a hole in the middle
    filled = fill_segments(contour_segments(part.contours), (-1.1, -1.0), (0.083, 0.077), (27, 26))
    x, y = -1.1 + 0.083 * torch.arange(27.0).double(), -1.0 + 0.077 * torch.arange(26.0).double()
    expected = part.inside(torch.cartesian_prod(x, y)).reshape(27, 26)
    assert 0.1 < expected.double().mean() < 0.9
    assert np.array_equal(filled, expected.numpy())


def test_the_contour_of_a_mask_has_its_area_and_its_place() -> None:
    mask = np.zeros((30, 50), np.uint8)
    mask[4:24, 10:40] = 255
    mask[10:16, 20:30] = 0
    part = picture_slice(mask, 3.0)
    segments = contour_segments(part.contours)
    # The places of all pixels, x to the right and y up, from the middle of the picture.
    inside = fill_segments(segments, (-24.5, -14.5), (1.0, 1.0), (50, 30))
    assert np.array_equal(inside.T[::-1], mask > 0)
    shoelace = abs(float((segments[:, 0, 0] * segments[:, 1, 1] - segments[:, 0, 1] * segments[:, 1, 0])[:100].sum()))
    assert shoelace == pytest.approx(2 * 600, abs=2)  # 30 x 20, without a hair at each corner
    assert part.origin.tolist() == [0, 0, 3]


def test_grey_values_move_the_contour_between_pixels() -> None:
    rows, columns = np.mgrid[:40, :40] + 0.5
    radius = 11.3
    grey = (255 * (radius + 0.5 - np.hypot(rows - 20, columns - 20)).clip(0, 1)).round().astype(np.uint8)
    contour = picture_slice(grey, 0.0).contours[0]
    assert float((contour.norm(dim=1) - radius).abs().max()) < 0.12
    hard = picture_slice(np.where(grey >= 128, 255, 0).astype(np.uint8), 0.0).contours[0]
    assert float((hard.norm(dim=1) - radius).abs().max()) > 0.3


def test_a_full_picture_ends_at_its_border_and_a_black_one_is_empty() -> None:
    whole = picture_slice(np.full((3, 8), 255, np.uint8), 0.0).contours
    assert len(whole) == 1
    assert whole[0].abs().amax(0).tolist() == pytest.approx([4, 1.5], abs=0.01)
    assert picture_slice(np.zeros((3, 8), np.uint8), 0.0).contours == ()


def test_a_sphere_is_cut_in_circles() -> None:
    axis = torch.linspace(-1, 1, 40, dtype=torch.float64)
    ball = level_surface(torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij")).norm(dim=0) - 0.7)
    tilted = torch.tensor([[0.6, 0.0, 0.8], [0.0, 1.0, 0.0]])
    part = PlanarSlice((), torch.tensor([0.05, 0.1, 0.0]), tilted)
    for offset in (0.0, 0.3):
        ends = mesh_section(ball, part, offset)
        space = part.lift(torch.from_numpy(ends).reshape(-1, 2)) + offset * torch.linalg.cross(*tilted.double())
        assert float((space.norm(dim=1) - 0.7).abs().max()) < 0.005
        # Closed: every end is there twice, to the bit.
        _, count = np.unique(ends.reshape(-1, 2), axis=0, return_counts=True)
        assert (count % 2 == 0).all()
    assert len(mesh_section(ball, part, 2.0)) == 0


def test_vertices_of_a_polygon_at_equal_steps() -> None:
    square = torch.tensor([[0.0, 0.0], [3.0, 0.0], [3.0, 1.0], [0.0, 1.0]])
    even = resample_contour(square, 0.5)
    assert even.shape == (16, 2)
    assert (even[1:] - even[:-1]).norm(dim=1).tolist() == pytest.approx([0.5] * 15)
    assert len(resample_contour(square, 100.0)) == 8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: picture_slice(np.zeros((2, 2, 3), np.uint8), 0.0), r"\(H, W\) of 8 bits"),
        (lambda: picture_slice(np.zeros((2, 2)), 0.0), "8 bits"),
        (lambda: picture_slice(np.zeros((2, 2), np.uint8), math.nan), "height"),
        (lambda: resample_contour(polygon(), 0.0), "spacing"),
        (lambda: fill_segments(np.zeros((0, 2, 2)), (0, 0), (0.0, 1.0), (2, 2)), "step in x"),
        (lambda: fill_segments(np.zeros((0, 2, 2)), (0, 0), (1.0, 1.0), (2, 0)), "points along y"),
        (
            lambda: mesh_section(
                TriangleMesh(torch.zeros(3, 3), torch.zeros(0, 3).long()),
                PlanarSlice.horizontal([], 0.0), math.inf,
            ),
            "offset",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]
