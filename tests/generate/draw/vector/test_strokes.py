"""Strokes: the paper's first drawing, order, gradients of what cannot be seen, and projection."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from binderclip.errors import DataError, UsageError
from binderclip.generate import BezierStrokes, ImageOptimisation

CROSS = [
    torch.tensor([[4.0, 16], [12, 16], [20, 16], [28, 16]]),
    torch.tensor([[16.0, 4], [16, 12], [16, 20], [16, 28]]),
]
RED, BLUE = [1.0, 0, 0, 1], [0, 0, 1.0, 1]


def cross(colours: list[list[float]], **settings: Any) -> BezierStrokes:
    return BezierStrokes(CROSS, torch.tensor([6.0, 6.0]), torch.tensor(colours), (32, 32), **settings)


def test_the_later_stroke_lies_on_top() -> None:
    for colours in ([RED, BLUE], [BLUE, RED]):
        image = cross(colours)()
        assert image[0, :, 16, 16].tolist() == colours[1][:3]
        assert image[0, :, 16, 6].tolist() == colours[0][:3]
        assert image[0, :, 2, 2].tolist() == [1, 1, 1]


def test_an_invisible_stroke_has_a_gradient_of_its_opacity_alone() -> None:
    strokes = cross([RED, [0, 0, 1.0, 0]])
    strokes().square().sum().backward()
    assert strokes.points.grad is not None
    assert strokes.colours.grad is not None
    assert strokes.widths.grad is not None
    assert not bool(strokes.points.grad[4:].any())
    assert float(strokes.widths.grad[1]) == 0
    assert bool(strokes.points.grad[:4].any())
    assert float(strokes.colours.grad[1, 3]) != 0


def test_the_first_drawing_is_the_papers() -> None:
    strokes = BezierStrokes.random(60, (112, 112), seed=3)
    assert set(strokes.segments) == {1, 2, 3}
    curves = strokes.points.split([3 * s + 1 for s in strokes.segments])
    for curve, segments in zip(curves, strokes.segments, strict=True):
        assert bool(((curve[0] >= 0) & (curve[0] <= 112)).all())
        assert float((curve - curve[0]).detach().abs().max()) <= 0.05 * 3 * segments * 112
    assert bool((strokes.widths == 1).all())  # a half width of 1 at 224 px
    assert bool(((strokes.colours >= 0) & (strokes.colours <= 1)).all())
    assert torch.equal(strokes(), BezierStrokes.random(60, (112, 112), seed=3)())


def test_projection_bounds_widths_and_colours_and_nothing_else() -> None:
    strokes = cross([RED, BLUE], limits=(2.0, 5.0))
    with torch.no_grad():
        strokes.points.add_(100)
        strokes.widths[0] = -3
        strokes.colours[0] = torch.tensor([2.0, -1, 0.5, 7])
    strokes.project_()
    assert strokes.widths.tolist() == [2, 5]
    assert strokes.colours[0].tolist() == [1, 0, 0.5, 1]
    assert float(strokes.points.amin()) == 104


def test_a_stroke_finds_its_way_to_a_picture_of_another() -> None:
    target = cross([RED, BLUE])().detach()
    moved = cross([RED, BLUE], lr=(0.2, 0.05, 0.01))
    with torch.no_grad():
        moved.points.add_(torch.tensor([2.0, -1.5]))
        moved.widths.sub_(2)
    error = {"error": lambda image: (image - target).square().mean()}
    result = ImageOptimisation(moved, error).run(60)
    assert result.history["error"][-1] < 2e-3 < 0.03 < result.history["error"][0]


def test_no_stroke_is_the_background_and_settings_are_refused_by_name() -> None:
    none = BezierStrokes([], torch.zeros(0), torch.zeros(0, 4), (8, 9), background=(0.5, 0.25, 1.0))
    assert torch.equal(none(), torch.tensor([0.5, 0.25, 1.0])[:, None, None].expand(1, 3, 8, 9))
    for curves, widths, colours, text in (
        ([torch.zeros(5, 2)], [1.0], [RED], "3 s \\+ 1"),
        ([torch.full((4, 2), math.nan)], [1.0], [RED], "not finite"),
        (CROSS[:1], [0.0], [RED], "widths"),
        (CROSS[:1], [1.0], [[0.0, 0, 0, 1.5]], "colours"),
    ):
        with pytest.raises(UsageError, match=text):
            BezierStrokes(curves, torch.tensor(widths), torch.tensor(colours), (32, 32))
    with pytest.raises(UsageError, match="size"):
        BezierStrokes.random(1, (0, 32))
    with pytest.raises(UsageError, match="count"):
        BezierStrokes.random(-1, (32, 32))


def test_an_svg_gives_the_same_drawing_and_filled_paths_are_refused() -> None:
    strokes = BezierStrokes.random(20, (48, 64), seed=1, background=(0.9, 0.8, 1.0))
    with torch.no_grad():
        strokes.widths.add_(3 * torch.rand(20, generator=torch.Generator().manual_seed(0)))
    read = BezierStrokes.from_svg(strokes.to_svg())
    torch.testing.assert_close(read(), strokes(), atol=2 / 255, rtol=0)
    with pytest.raises(DataError, match="BezierPaths"):
        BezierStrokes.from_svg(strokes.to_svg().replace('fill="none" stroke=', 'stroke="none" fill='))
