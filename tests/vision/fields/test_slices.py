"""Slices and their samples (p173, arXiv 2211.12886): inside by matplotlib, distances and counts by hand."""

from __future__ import annotations

import math

import pytest
import torch
from matplotlib.path import Path
from scipy.spatial import ConvexHull
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import PlanarSlice, slice_samples


def circle(radius: float, count: int = 24, turn: float = 1.0) -> Tensor:
    angles = torch.arange(count) * (2 * math.pi / count) * turn
    return radius * torch.stack([angles.cos(), angles.sin()], 1)


def stack() -> list[PlanarSlice]:
    return [PlanarSlice.horizontal([circle((1 - z * z) ** 0.5)], z) for z in (-0.6, 0.0, 0.6)]


def test_inside_is_that_of_matplotlib() -> None:
    points = torch.rand(500, 2, generator=torch.Generator().manual_seed(0)) * 2 - 1
    spiral = circle(1.0, 40) * torch.linspace(0.2, 1, 40)[:, None]
    part = PlanarSlice.horizontal([spiral], 0.0)
    assert torch.equal(part.inside(points), torch.from_numpy(Path(spiral.numpy()).contains_points(points.numpy())))


def test_holes_and_islands_count_by_turns_whatever_their_direction() -> None:
    part = PlanarSlice.horizontal([circle(0.9), circle(0.6, turn=-1.0), circle(0.3)], 0.0)
    points = torch.tensor([[0.0, 0.1], [0.45, 0.0], [0.0, -0.75], [0.95, 0.0]])
    assert part.inside(points).tolist() == [True, False, True, False]
    assert not PlanarSlice.horizontal([], 0.0).inside(points).any()


def test_a_vertex_at_the_height_of_a_point_is_crossed_once() -> None:
    diamond = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
    part = PlanarSlice.horizontal([diamond], 0.0)
    assert part.inside(torch.tensor([[0.0, 0.0], [-2.0, 0.0], [2.0, 0.0], [-2.0, 1.0]])).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("level", "radius", "count"), [(0, 1 / 16, 2), (3, 1 / 64, 3), (5, 1 / 128, 5)])
def test_samples_lie_where_the_paper_puts_them(level: int, radius: float, count: int) -> None:
    square = torch.tensor([[-0.5, -0.5], [0.5, -0.5], [0.5, 0.5], [-0.5, 0.5]])
    axes = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    slices = [PlanarSlice((square,), torch.tensor([x, 0.0, 0.0]), axes) for x in (-0.5, 0.5)]
    samples = slice_samples(slices, level, noise=0, hull=0)
    # On each of two planes: n around each of 4 vertices, 2 n beside and n on each of 4 edges.
    assert len(samples.points) == 2 * (4 * count + 4 * 2 * count + 4 * count)
    on = samples.labels == 0.5
    assert int(on.sum()) == 2 * 4 * count
    assert set(samples.points[:, 0].tolist()) == {-0.5, 0.5}
    flat = samples.points[:, 1:].double()
    distance = (flat.abs() - 0.5).clamp(min=0).norm(dim=1) + (flat.abs().amax(1) - 0.5).clamp(max=0)
    torch.testing.assert_close(distance[on], torch.zeros(int(on.sum())).double(), atol=1e-6, rtol=0)
    assert float(distance.abs().max()) <= radius + 1e-6
    assert int((distance.abs() - radius).abs().lt(1e-6).sum()) >= 2 * 4 * 2 * (count - 1)
    clear = ~on & (distance.abs() > 1e-6)  # some points of a circle lie on an edge
    assert torch.equal(samples.labels[clear], (flat.abs().amax(1) > 0.5).float()[clear])


def test_the_hull_is_five_percent_larger_and_outside() -> None:
    slices = stack()
    samples = slice_samples(slices, 0, noise=10, hull=4000, generator=torch.Generator().manual_seed(0))
    hull = samples.points[-4000:].double()
    assert (samples.labels[-4000:] == 1).all()
    vertices = torch.cat([part.vertices() for part in slices]).double()
    shape = ConvexHull(vertices.numpy())
    middle = vertices.mean(0)
    planes = torch.from_numpy(shape.equations)
    back = middle + (hull - middle) / 1.05
    height = (back @ planes[:, :3].T + planes[:, 3]).amax(1)  # 0 on the hull
    assert float(height.abs().max()) < 1e-5
    # Drawn by area: the caps have their part of it.
    cap = (hull[:, 2].abs() > 0.62).double().mean()
    assert float(cap) == pytest.approx(2 * math.pi * 0.8**2 * 0.985 / shape.area, abs=0.03)
    noise = samples.points[len(samples.points) - 4010 : -4000]
    assert (noise[:, 2] == 0.6).all() or len(noise) == 10


def test_the_noise_has_the_label_of_its_polygon() -> None:
    samples = slice_samples(stack(), 0, noise=400, hull=0, generator=torch.Generator().manual_seed(1))
    free = samples.labels != 0.5
    radius = samples.points[free].norm(dim=1)  # of a sphere whose circles are polygons of 24 corners
    clear = (radius - 1).abs() > 0.02
    assert torch.equal(samples.labels[free][clear], (radius > 1).float()[clear])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: PlanarSlice.horizontal([torch.zeros(2, 2)], 0.0), "at least 3 vertices"),
        (lambda: PlanarSlice.horizontal([torch.full((3, 2), math.nan)], 0.0), "must be finite"),
        (lambda: PlanarSlice.horizontal([circle(1.0)], math.inf), "height"),
        (lambda: PlanarSlice((circle(1.0),), torch.zeros(3), torch.ones(2, 3)), "orthonormal"),
        (lambda: PlanarSlice((circle(1.0),), torch.zeros(2), torch.eye(3)[:2]), r"origin must be \(3,\)"),
        (lambda: slice_samples(stack(), 6), "level"),
        (lambda: slice_samples(stack(), 0, noise=-1), "noise"),
        (lambda: slice_samples([], 0), "no slice has a contour"),
        (lambda: slice_samples(stack()[:1], 0), "two planes"),
    ],
)
def test_what_is_no_slice_is_refused(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]
