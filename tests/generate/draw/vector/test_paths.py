"""Filled paths: a disc's radius, gradients by formula, layers, and what a fit recovers."""

from __future__ import annotations

import math

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.generate import BezierPaths, ImageOptimisation, RadialFill

KAPPA = 4 / 3 * math.tan(math.pi / 8)  # the handle of a quarter circle
RED, GREEN = (1.0, 0.0, 0.0, 1.0), (0.0, 0.5, 0.0, 1.0)


def disc(x: float, y: float, radius: float) -> torch.Tensor:
    points = []
    for turn in range(4):
        angle = turn * math.pi / 2
        c, s = math.cos(angle), math.sin(angle)
        points += [(c, s), (c - KAPPA * s, s + KAPPA * c), (KAPPA * c - s, KAPPA * s + c)]
    return torch.tensor(points) * radius + torch.tensor([x, y])


def test_a_disc_has_its_area_and_a_gradient_its_colours() -> None:
    fill = RadialFill((20.0, 15.0), (10.0, 5.0), (0.2, 0.8), (RED, GREEN))
    plain = BezierPaths([disc(20, 16, 9)], torch.tensor([RED]), (32, 40))
    assert float((1 - plain()[0, 1].detach()).sum()) == pytest.approx(math.pi * 81, rel=0.01)
    image = BezierPaths([disc(20, 16, 9)], [fill], (32, 40))()
    for x, y in ((20, 15), (24, 14), (20, 19), (26, 20)):
        radius = math.hypot((x + 0.5 - 20) / 10, (y + 0.5 - 15) / 5)
        part = min(max((radius - 0.2) / 0.6, 0), 1)
        expected = [(1 - part) * a + part * b for a, b in zip(RED[:3], GREEN[:3], strict=True)]
        assert image[0, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_a_disc_of_one_colour_gets_its_radius_back() -> None:
    target = BezierPaths([disc(17, 15, 9)], torch.tensor([RED]), (32, 32))().detach()
    param = BezierPaths([disc(16, 16, 5)], torch.tensor([[0.8, 0.2, 0.2, 1]]), (32, 32), lr=(0.3, 0.02))
    result = ImageOptimisation(param, {"error": lambda image: (image - target).square().sum(1).mean()}).run(80)
    radius = (param.layers[0].points[::3] - torch.tensor([17.0, 15.0])).norm(dim=1)
    assert float((radius - 9).abs().max()) < 0.5
    assert result.history["error"][-1] < 1e-3


def test_a_path_with_a_gradient_is_recovered_from_a_perturbed_one() -> None:
    fill = RadialFill((18.0, 14.0), (12.0, 9.0), (0.1, 0.9), (RED, GREEN))
    target = BezierPaths([disc(16, 16, 10)], [fill], (32, 32))().detach()
    g = torch.Generator().manual_seed(0)
    param = BezierPaths([disc(16, 16, 10) + 4 * torch.rand(12, 2, generator=g) - 2], [fill], (32, 32), lr=(0.2, 0.005))
    result = ImageOptimisation(param, {"error": lambda image: (image - target).square().mean()}).run(120)
    assert -10 * math.log10(float((result.image - target).square().mean())) > 35


def test_added_paths_lie_on_top_with_parameters_of_their_own() -> None:
    param = BezierPaths([disc(12, 16, 8)], torch.tensor([RED]), (32, 32))
    before, first = param().detach(), param.layers[0].points
    param.add([disc(20, 16, 6)], [RadialFill((20, 16), (6, 6), (0, 1), (GREEN, GREEN))])
    image = param()
    assert image[0, :, 16, 19].tolist() == list(GREEN[:3])
    assert torch.equal(image[..., :13], before[..., :13])
    assert param.layers[0].points is first
    assert len(param.groups()) == 4
    silhouette = param.silhouette()
    assert float(silhouette.sum()) == pytest.approx(math.pi * 36, rel=0.02)
    assert float(silhouette[16, 6]) == 0
    torch.testing.assert_close(BezierPaths.from_svg(param.to_svg())(), image, atol=2 / 255, rtol=0)


def test_a_drawing_without_paths_is_its_ground_at_any_size() -> None:
    drawing = BezierPaths([], [], (4, 6), background=(1.0, 0.5, 0.0))
    for _ in range(2):
        for picture, size in ((drawing(), (4, 6)), (drawing.render((8, 5)), (8, 5))):
            torch.testing.assert_close(picture, torch.tensor([1.0, 0.5, 0.0])[None, :, None, None].expand(1, 3, *size))
        assert drawing.render((2, 3), (0.0, 1.0, 0.0))[0, :, 0, 0].tolist() == [0, 1, 0]
        drawing.add([], [])  # a layer, and still no path


def test_projection_keeps_gradients_drawable() -> None:
    param = BezierPaths([disc(8, 8, 4)], [RadialFill((8, 8), (4, 4), (0, 1), (RED, GREEN))], (16, 16))
    layer = param.layers[0]
    with torch.no_grad():
        layer.offsets.copy_(torch.tensor([[1.4, 0.3]]))
        layer.radii.fill_(-2)
        layer.stops.mul_(3)
    param.project_()
    assert layer.offsets[0].tolist() == pytest.approx([0.999, 1.0])
    assert bool((layer.radii == 0.5).all())
    assert bool((layer.stops <= 1).all())
    assert bool(param().isfinite().all())


@pytest.mark.parametrize(
    ("fill", "text"),
    [
        (RadialFill((0, 0), (0, 1), (0, 1), (RED, RED)), "radii"),
        (RadialFill((0, math.inf), (1, 1), (0, 1), (RED, RED)), "centre"),
        (RadialFill((0, 0), (1, 1), (0, 2), (RED, RED)), "offsets"),
        (RadialFill((0, 0), (1, 1), (0, 1), (RED, (0.0, 0.0, 2.0, 1.0))), "colours"),
    ],
)
def test_fills_that_cannot_be_drawn_are_refused(fill: RadialFill, text: str) -> None:
    with pytest.raises(UsageError, match=text):
        BezierPaths([disc(8, 8, 4)], [fill], (16, 16))
