"""Whole pictures: coordinates go there and back, and pieces join."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.segment import TubularTracer, trace_picture

EVEN = TubularTracer(lambda strips: torch.ones(len(strips)), length=3, radius=1, unknown=1.0)


def inside(strips: torch.Tensor) -> torch.Tensor:
    middle = strips.shape[-1] // 2
    return strips[:, 0, :, middle - 1 : middle + 2].mean((1, 2))


def picture(corner: Any, times: int) -> Image.Image:
    pixels = (corner.image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
    return Image.fromarray(pixels.repeat(times, 0).repeat(times, 1))


@pytest.mark.parametrize(("times", "size"), [(1, 48), (1, 400), (4, 48)])
def test_the_line_is_in_the_pixels_of_the_picture(corner: Any, times: int, size: int) -> None:
    (x0, y0), (x1, y1) = corner.start, corner.end
    centre = (times - 1) / 2
    points = [(times * x0 + centre, times * y0 + centre), (times * x1 + centre, times * y1 + centre)]
    found = trace_picture(
        TubularTracer(inside, length=8, radius=4, mask=lambda strips: strips[:, 0]),
        picture(corner, times),
        points,
        size=size,
    )
    torch.testing.assert_close(found.points[[0, -1]], torch.tensor(points, dtype=torch.float32))
    assert found.mask is not None
    assert found.mask.shape == (40 * times, 48 * times)
    truth = torch.nn.functional.interpolate(corner.mask[None, None].float(), scale_factor=times)[0, 0] > 0
    assert float((found.mask & truth).sum() / (found.mask | truth).sum()) > 0.8
    assert found.length == pytest.approx(times * 57, rel=0.15)
    assert 1 < found.cost < 3


def test_a_point_falls_on_the_pixel_that_shows_it() -> None:
    """Of a picture made smaller, rounding down would lead every line half a pixel up and left."""
    ground = Image.new("L", (400, 400))
    given = [(float(x), float(x)) for x in range(20, 380, 7)]
    away = [
        trace_picture(EVEN, ground, [point, (200.0, 390.0)], size=256).points[0] - torch.tensor(point)
        for point in given
    ]
    assert abs(float(torch.stack(away).mean())) < 0.1
    assert float(torch.stack(away).abs().max()) < 0.8


def test_pieces_go_through_every_point() -> None:
    ground = Image.new("L", (60, 40))
    found = trace_picture(EVEN, ground, [(5, 5), (50, 5), (50, 35)])
    assert found.length == pytest.approx(45 + 30)
    assert [50.0, 5.0] in found.points.tolist()
    assert ((found.points[1:] - found.points[:-1]).abs().amax(1) == 1).all()
    assert found.mask is None
    assert found.cost == pytest.approx(1 / 1.05)


def test_bad_points_are_named() -> None:
    ground = Image.new("RGB", (400, 300))
    with pytest.raises(UsageError, match="two points at least, not 1"):
        trace_picture(EVEN, ground, [(1, 1)])
    with pytest.raises(UsageError, match="point 400,1 is outside the picture of 400 x 300"):
        trace_picture(EVEN, ground, [(1, 1), (400, 1)])
    with pytest.raises(UsageError, match="points 1 and 2 fall on one pixel"):
        trace_picture(EVEN, ground, [(100, 100), (101, 100)], size=40)
    with pytest.raises(UsageError, match="at least 16"):
        trace_picture(EVEN, ground, [(1, 1), (40, 1)], size=8)
