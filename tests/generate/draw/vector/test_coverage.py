"""Coverage: areas by formula, scikit-image's polygons and a finer grid, winding by angles, and finite differences."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from skimage.draw import polygon2mask
from torch import Tensor

from binderclip.generate.draw.vector.coverage import fill_coverage, stroke_coverage, winding_number
from binderclip.generate.draw.vector.curves import Pieces, curve_index, flatten, pieces_for

SIZE = (48, 64)


def pieces_of(curves: list[Tensor], closed: bool, pieces: int = 12) -> Pieces:
    segments = [len(curve) // 3 for curve in curves]
    return flatten(torch.cat(curves), curve_index(segments, closed), pieces)


def line(x0: float, y0: float, x1: float, y1: float) -> Tensor:
    part = torch.linspace(0, 1, 4)[:, None]
    return torch.tensor([[x0, y0]]) * (1 - part) + torch.tensor([[x1, y1]]) * part


def blob(seed: int, segments: int = 4) -> Tensor:
    """A closed path around (32, 24), not convex."""
    g = torch.Generator().manual_seed(seed)
    angle = torch.arange(3 * segments) / (3 * segments) * 2 * math.pi
    radius = 8 + 12 * torch.rand(3 * segments, generator=g)
    return torch.stack([32 + radius * angle.cos(), 24 + radius * angle.sin()], 1)


@pytest.mark.parametrize("width", [0.4, 1.0, 3.0, 7.5])
def test_a_level_stroke_covers_its_width_times_its_length_and_two_half_discs(width: float) -> None:
    coverage = stroke_coverage(pieces_of([line(10.0, 20.5, 50.0, 20.5)], False), torch.tensor([width]), SIZE)
    ends = math.pi * width**2 / 4
    assert float(coverage.sum()) == pytest.approx(40 * width + ends, abs=0.35 + 0.02 * width)
    column = coverage.reshape(SIZE)[:, 30]
    assert float(column.sum()) == pytest.approx(width, abs=1e-5)  # exact across the middle, thin or wide
    assert float(column[20]) == pytest.approx(min(width, 1), abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_fills_are_scikit_images_polygons_and_the_area_of_a_finer_grid(seed: int) -> None:
    pieces = pieces_of([blob(seed)], True)
    coverage = fill_coverage(pieces, SIZE).reshape(SIZE)
    nodes = pieces.start.numpy()
    fine = 8
    mask = polygon2mask((SIZE[0] * fine, SIZE[1] * fine), nodes[:, ::-1] * fine - 0.5)
    area = torch.from_numpy(mask.reshape(SIZE[0], fine, SIZE[1], fine).mean((1, 3)).astype(np.float32))
    difference = (coverage - area).abs()
    # 1/2 + the distance is the covered area of an edge along an axis; of a diagonal one it is up to 0.07 off
    assert float(difference.mean()) < 2e-3
    assert float(difference.amax()) < 0.25  # at a corner
    inside, polygon = coverage > 0.5, torch.from_numpy(polygon2mask(SIZE, nodes[:, ::-1] - 0.5))
    assert float((inside & polygon).sum() / (inside | polygon).sum()) > 0.97


def test_strokes_are_the_distance_to_a_finely_sampled_curve() -> None:
    g = torch.Generator().manual_seed(3)
    curve = torch.tensor([[20.0, 10]]) + 30 * torch.rand(7, 2, generator=g)
    width = torch.tensor([4.0])
    coverage = stroke_coverage(pieces_of([curve], False, 24), width, SIZE).reshape(SIZE)
    t = torch.linspace(0, 1, 2000)[:, None]
    nodes = []
    for p in (curve[:4], curve[3:]):  # de Casteljau
        a, b, c = (p[k] + (p[k + 1] - p[k]) * t for k in range(3))
        ab, bc = a + (b - a) * t, b + (c - b) * t
        nodes.append(ab + (bc - ab) * t)
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    distance = torch.cdist(torch.stack([x, y], -1).reshape(-1, 2), torch.cat(nodes)).amin(1).reshape(SIZE)
    torch.testing.assert_close(coverage, (2 - distance + 0.5).clamp(0, 1), atol=0.03, rtol=0)


@pytest.mark.parametrize("width", [9.0, 17.0, 60.0])
def test_wide_strokes_are_the_distances_to_all_pieces_at_all_pixels(width: float) -> None:
    # tiles leave pairs out; here none is left out
    g = torch.Generator().manual_seed(6)
    curves = [torch.tensor([[5.0, 0]]) + 55 * torch.rand(7, 2, generator=g) for _ in range(3)]
    curves.append(torch.tensor([[-60.0, 70], [-30, 90], [20, 80], [50, 75]]))  # below the canvas, within reach
    pieces, widths = pieces_of(curves, False), width * torch.tensor([1.0, 0.7, 0.1, 1.0])
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    offset = torch.stack([x, y], -1).reshape(-1, 1, 2) - pieces.start  # [P, Q, 2]
    along = pieces.end - pieces.start
    t = ((offset * along).sum(2) / along.square().sum(1)).clamp(0, 1)
    distance = (offset - t[..., None] * along).norm(dim=2)
    for curve, coverage in enumerate(stroke_coverage(pieces, widths, SIZE)):
        d, half = distance[:, pieces.owner == curve].amin(1), widths[curve] / 2
        expected = (torch.minimum(d + 0.5, half) - torch.maximum(d - 0.5, -half)).clamp(0, 1)
        torch.testing.assert_close(coverage, expected, atol=2e-5, rtol=0)


def test_gradients_of_a_wide_stroke_are_finite_differences() -> None:
    weight = torch.rand(SIZE, generator=torch.Generator().manual_seed(9), dtype=torch.float64).flatten()
    curve, width = blob(1)[:7].double().requires_grad_(), torch.tensor([14.3], dtype=torch.float64, requires_grad=True)

    def value(points: Tensor, width: Tensor) -> Tensor:
        return (stroke_coverage(pieces_of([points], False), width, SIZE)[0] * weight).sum()

    gradients = torch.autograd.grad(value(curve, width), (curve, width))
    with torch.no_grad():
        step = torch.zeros_like(curve)
        step[3, 1] = 1e-5
        numeric = (value(curve + step, width) - value(curve - step, width)) / 2e-5
        assert float(gradients[0][3, 1]) == pytest.approx(float(numeric), abs=2e-3, rel=1e-3)
        numeric = (value(curve, width + 1e-5) - value(curve, width - 1e-5)) / 2e-5
        assert float(gradients[1]) == pytest.approx(float(numeric), rel=1e-3)


def test_winding_counts_turns_of_the_angle_around_each_centre() -> None:
    crossing = torch.tensor([[10.0, 8], [60, 40], [60, 8], [10, 40], [2, 30], [20, -10], [40, 20], [50, 44], [5, 5]])
    pieces = pieces_of([blob(5), crossing], True)
    y, x = torch.meshgrid(torch.arange(SIZE[0]) + 0.5, torch.arange(SIZE[1]) + 0.5, indexing="ij")
    centre = torch.stack([x, y], -1).reshape(-1, 1, 2).double()
    for path in (0, 1):
        own = pieces.owner == path
        start, end = (torch.view_as_complex(p[own].double() - centre) for p in (pieces.start, pieces.end))
        turns = (end * start.conj()).angle().sum(1) / (2 * math.pi)
        assert torch.equal(winding_number(pieces, SIZE)[path], turns.round().long())


def test_gradients_are_finite_differences_and_none_comes_from_pixels_far_from_an_edge() -> None:
    weight = torch.rand(SIZE, generator=torch.Generator().manual_seed(9), dtype=torch.float64).flatten()
    for closed in (True, False):
        curve = (blob(1) if closed else blob(1)[:7]).double()

        def value(points: Tensor, closed: bool = closed) -> Tensor:
            pieces = pieces_of([points], closed)
            width = torch.tensor([3.3], dtype=torch.float64)
            coverage = fill_coverage(pieces, SIZE) if closed else stroke_coverage(pieces, width, SIZE)
            return (coverage[0] * weight).sum()

        points = curve.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(value(points), points)
        for number in (0, 2, 4):
            for axis in (0, 1):
                step = torch.zeros_like(curve)
                step[number, axis] = 1e-5
                numeric = (value(curve + step) - value(curve - step)) / 2e-5
                assert float(gradient[number, axis]) == pytest.approx(float(numeric), abs=2e-3, rel=1e-3)


def test_curves_beyond_the_canvas_touch_nothing_and_no_curve_is_no_row() -> None:
    far = pieces_of([line(500.0, 500, 900, 900), line(-80.0, 3, -20, 3)], False)
    assert not bool(stroke_coverage(far, torch.tensor([6.0, 6.0]), SIZE).any())
    corners = [(-50.0, -50.0), (150.0, -50.0), (150.0, 100.0), (-50.0, 100.0)]
    sides = [line(*a, *b)[:-1] for a, b in zip(corners, corners[1:] + corners[:1], strict=True)]
    assert bool((fill_coverage(pieces_of([torch.cat(sides)], True), SIZE) == 1).all())
    none = Pieces(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), 0)
    empty = (0, SIZE[0] * SIZE[1])
    assert stroke_coverage(none, torch.zeros(0), SIZE).shape == fill_coverage(none, SIZE).shape == empty


def test_more_pieces_on_larger_canvases() -> None:
    assert [pieces_for((side, side)) for side in (16, 64, 224, 1024)] == [8, 8, 24, 24]
