"""Interpolated distances of slices (the rival of p173, arXiv 2211.12886): against frusta and bounds of the volume."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import PlanarSlice, interpolated_surface


def circle(radius: float, centre: tuple[float, float] = (0.0, 0.0), count: int = 200) -> Tensor:
    angles = torch.arange(count, dtype=torch.float64) * 2 * math.pi / count
    return radius * torch.stack([angles.cos(), angles.sin()], 1) + torch.tensor(centre)


def discs(radii: list[float], gap: float) -> list[PlanarSlice]:
    return [PlanarSlice.horizontal([circle(r)] if r else [], gap * n) for n, r in enumerate(radii)]


def frusta(radii: list[float], gap: float) -> float:
    """Cones without tips between discs; where one ends in nothing the radius is R (1 - 2 t) / (1 - t), to the middle.

    Distances to a disc of radius R are r - R, and to nothing R: (1 - t) (r - R) + t R = 0. The volume of that end is
    pi R^2 gap times the integral of (2 - 1 / (1 - t))^2 from 0 to 1/2, which is 3 - 4 ln 2.
    """
    total = 0.0
    for a, b in itertools.pairwise(radii):
        if a and b:
            total += gap * math.pi / 3 * (a * a + a * b + b * b)
        else:
            total += math.pi * max(a, b) ** 2 * gap * (3 - 4 * math.log(2))
    return total


def test_between_discs_are_frusta() -> None:
    radii = [4.0, 6.0, 5.0, 0.0, 0.0]
    mesh = interpolated_surface(discs(radii, 3.0), 64)
    assert mesh.volume == pytest.approx(frusta(radii, 3.0), rel=0.003)
    # The stack of blocks that a picture of the slices would be is another one.
    blocks = 3.0 * math.pi * sum(r * r for r in radii)
    assert abs(mesh.volume / blocks - 1) > 0.2
    assert mesh.is_closed
    assert mesh.euler_characteristic == 2
    assert mesh.vertices[:, 2].min() == 0  # a flat face, on the plane
    assert 6 + 0.85 * 1.5 < float(mesh.vertices[:, 2].max()) <= 6 + 1.5


@pytest.mark.parametrize("gap", [4.0, 2.0])
def test_a_sphere_is_met_as_its_spacing_allows(gap: float) -> None:
    radius = 10.0
    heights = [gap * n - 12.0 for n in range(int(24 / gap) + 1)]
    radii = [math.sqrt(max(0.0, radius**2 - z * z)) for z in heights]
    mesh = interpolated_surface(discs(radii, gap), 48)
    # Both solids have a cross-section between those of the slices around it, as these lie in one another.
    areas = [math.pi * r * r for r in radii]
    bound = gap * sum(abs(a - b) for a, b in itertools.pairwise(areas))
    error = abs(mesh.volume - 4 / 3 * math.pi * radius**3)
    assert error < bound
    # Chords of a circle lie inside by gap^2 / (8 R) at most, and the ends by a fraction of theirs.
    assert error < gap**2 / (8 * radius) * 4 * math.pi * radius**2 + 2 * gap * areas[1 if gap == 4 else 2]
    assert mesh.is_closed
    assert mesh.euler_characteristic == 2


def test_the_order_and_the_frame_of_slices_do_not_matter() -> None:
    radii, gap = [3.0, 5.0, 2.0], 2.0
    plain = interpolated_surface(discs(radii, gap), 32)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))[0]
    turn = turn * torch.linalg.det(turn).sign()
    moved = [
        PlanarSlice(part.contours, turn.T @ (part.origin + torch.tensor([1.0, 2, 3])), part.axes @ turn)
        for part in discs(radii, gap)
    ]
    mesh = interpolated_surface([moved[2], moved[0], moved[1]], 32)
    assert mesh.volume == pytest.approx(plain.volume, rel=1e-3)
    back = mesh.vertices @ turn.T - torch.tensor([1.0, 2, 3])
    torch.testing.assert_close(back.amax(0), plain.vertices.amax(0), atol=0.05, rtol=0)


def test_holes_make_a_ring_and_parts_that_do_not_overlap_stay_apart() -> None:
    ring = [PlanarSlice.horizontal([circle(6.0), circle(3.0)], z) for z in (0.0, 2.0)]
    tube = interpolated_surface(ring, 48)
    assert tube.euler_characteristic == 0
    assert tube.volume == pytest.approx(2 * math.pi * (36 - 9), rel=0.005)
    apart = [PlanarSlice.horizontal([circle(2.0, (x, 0.0))], z) for x, z in ((-5.0, 0.0), (5.0, 1.0))]
    assert interpolated_surface(apart, 48).euler_characteristic == 4


def test_a_line_one_pixel_thin_is_kept() -> None:
    line = torch.tensor([[0.0, 0.0], [5000.0, 0.0], [5000.0, 1.0], [0.0, 1.0]])
    mesh = interpolated_surface([PlanarSlice.horizontal([line], z) for z in (0.0, 3.0)], 32)
    assert mesh.volume == pytest.approx(15_000, rel=0.05)
    assert mesh.is_closed


def test_more_slices_than_layers_are_read_between() -> None:
    mesh = interpolated_surface(discs([5.0] * 200, 0.05), 16)
    assert mesh.volume == pytest.approx(math.pi * 25 * 199 * 0.05, rel=0.02)


def test_progress_counts_slices() -> None:
    calls: list[tuple[int, int]] = []
    interpolated_surface(discs([2.0, 3.0, 2.0], 1.0), 16, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(2, 3), (3, 3)]


def test_what_cannot_be_done_is_refused() -> None:
    two = discs([2.0, 3.0], 1.0)
    across = PlanarSlice((circle(1.0),), torch.zeros(3), torch.eye(3)[1:])
    for slices, resolution, message in (
        (two[:1], 32, "at least two slices"),
        ([two[0], across], 32, "not parallel"),
        ([two[0], two[0]], 32, "one height"),
        (discs([0.0, 0.0], 1.0), 32, "no slice has a contour"),
        (two, 4, "resolution"),
        (two, 1000, "resolution"),
    ):
        with pytest.raises(UsageError, match=message):
            interpolated_surface(slices, resolution)
