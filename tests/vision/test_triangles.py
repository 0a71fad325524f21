"""Triangles on pixels (p042, arXiv 2404.09758) against exact arithmetic, one pixel at a time."""

from __future__ import annotations

from fractions import Fraction
from math import inf, nan

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import rasterize


def by_hand(vertices: Tensor, faces: Tensor, size: tuple[int, int]) -> tuple[list[int], list[list[Fraction]]]:
    """The visible triangle of each pixel and its barycentric coordinates, in fractions."""
    rows = [[Fraction(float(x)) for x in row] for row in vertices]
    numbers, coordinates = [], []
    for y in range(size[0]):
        for x in range(size[1]):
            px, py = x + Fraction(1, 2), y + Fraction(1, 2)
            nearest, depth, weights = -1, None, [Fraction(0)] * 3
            for number, face in enumerate(faces.tolist()):
                (ax, ay), (bx, by), (cx, cy) = (rows[i][:2] for i in face)
                area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
                if area == 0:
                    continue
                # Cramer's rule for p = a + v (b - a) + w (c - a)
                v = ((px - ax) * (cy - ay) - (py - ay) * (cx - ax)) / area
                w = ((bx - ax) * (py - ay) - (by - ay) * (px - ax)) / area
                if min(v, w, 1 - v - w) < 0:
                    continue
                here = [1 - v - w, v, w]
                z = sum(
                    (part * rows[i][2] for part, i in zip(here, face, strict=True)), Fraction(0)
                ) if len(rows[0]) == 3 else Fraction(0)  # fmt: skip
                if depth is None or z <= depth:
                    nearest, depth, weights = number, z, here
            numbers.append(nearest)
            coordinates.append(weights)
    return numbers, coordinates


@pytest.mark.parametrize("columns", [2, 3])
def test_each_pixel_shows_the_nearest_triangle_at_its_centre(columns: int) -> None:
    g = torch.Generator().manual_seed(columns)
    # Quarters of pixels, some beyond the picture, so that centres lie on edges and float64 is exact.
    vertices = torch.randint(-12, 52, (14, columns), generator=g, dtype=torch.float64) / 4
    faces = torch.stack([torch.randperm(14, generator=g)[:3] for _ in range(24)])
    drawn = rasterize(vertices, faces, (9, 11))
    numbers, coordinates = by_hand(vertices, faces, (9, 11))
    assert drawn.pix_to_face.flatten().tolist() == numbers
    expected = torch.tensor([[float(part) for part in row] for row in coordinates], dtype=torch.float64)
    torch.testing.assert_close(drawn.bary_coords.reshape(-1, 3), expected, rtol=0, atol=1e-12)
    covered = drawn.pix_to_face >= 0
    assert 0 < int(covered.sum()) < 99
    assert bool(drawn.zbuf[~covered].isinf().all())
    if columns == 3:
        depth = (drawn.bary_coords * vertices[faces[drawn.pix_to_face.clamp(min=0)], 2]).sum(-1)
        torch.testing.assert_close(drawn.zbuf[covered], depth[covered])


def test_many_pairs_are_tested_in_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    g = torch.Generator().manual_seed(0)
    vertices, faces = 16 * torch.rand(30, 3, generator=g), torch.randint(30, (40, 3), generator=g)
    whole = rasterize(vertices, faces, (16, 16))
    monkeypatch.setattr("binderclip.vision.triangles.PAIRS", 200)
    assert torch.equal(rasterize(vertices, faces, (16, 16)).pix_to_face, whole.pix_to_face)
    flat = vertices[:, :2]
    grouped = rasterize(flat, faces, (16, 16)).pix_to_face
    monkeypatch.setattr("binderclip.vision.triangles.PAIRS", 2**20)
    assert torch.equal(grouped, rasterize(flat, faces, (16, 16)).pix_to_face)


def test_a_mesh_has_no_cracks() -> None:
    g = torch.Generator().manual_seed(0)
    ticks = torch.linspace(-1, 33, 13)
    inner = torch.cartesian_prod(ticks, ticks) + 0.9 * torch.rand(169, 2, generator=g)
    corner = torch.cartesian_prod(torch.arange(12), torch.arange(12)) @ torch.tensor([13, 1])
    first = torch.stack((corner, corner + 1, corner + 13), 1)
    second = torch.stack((corner + 1, corner + 14, corner + 13), 1)
    drawn = rasterize(inner, torch.cat((first, second)), (32, 32))
    assert bool((drawn.pix_to_face >= 0).all())


def test_nothing_and_the_invisible_behave() -> None:
    line = torch.tensor([[0.0, 0.0], [4.0, 4.0], [2.0, 2.0], [90.0, 0.0], [99.0, 0.0], [90.0, 9.0], [1e30, 1e30]])
    for faces in ([[0, 1, 2]], [[3, 4, 5]], [[3, 4, 6]], []):
        drawn = rasterize(line, torch.tensor(faces, dtype=torch.long).reshape(-1, 3), (4, 4))
        assert bool((drawn.pix_to_face == -1).all())
        assert bool((drawn.bary_coords == 0).all())
    huge = torch.tensor([[-1e9, -1e9], [3e9, -1e9], [-1e9, 3e9]], dtype=torch.float64)
    assert bool((rasterize(huge, torch.tensor([[0, 1, 2]]), (3, 5)).pix_to_face == 0).all())


@pytest.mark.parametrize(
    ("vertices", "faces", "size", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(1, 3, dtype=torch.long), (2, 2), "rows"),
        (torch.full((3, 2), nan), torch.zeros(1, 3, dtype=torch.long), (2, 2), "finite"),
        (torch.full((3, 2), inf), torch.zeros(1, 3, dtype=torch.long), (2, 2), "finite"),
        (torch.zeros(3, 2), torch.full((1, 3), 3), (2, 2), "3 vertices"),
        (torch.zeros(3, 2), torch.full((1, 3), -1), (2, 2), "3 vertices"),
        (torch.zeros(3, 2), torch.zeros(1, 3), (2, 2), "whole numbers"),
        (torch.zeros(3, 2), torch.zeros(1, 3, dtype=torch.long), (0, 2), "height"),
    ],
)
def test_refusals(vertices: Tensor, faces: Tensor, size: tuple[int, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        rasterize(vertices, faces, size)
