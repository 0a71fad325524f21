"""Junctions (p063): wedges by angle, distances to sampled rays, and the released renderer's numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.vision import JunctionField


def junction(angle: float, openings: list[float], vertex: tuple[float, float]) -> JunctionField:
    """One junction, float64."""
    column = lambda values: torch.tensor(values, dtype=torch.float64).reshape(1, -1, 1, 1)  # noqa: E731
    return JunctionField.of_angles(column([angle])[:, 0], column(openings), column(vertex))


CASES = [
    (0.3, [2.0, 1.5, 2 * math.pi - 3.5], (0.1, -0.2)),
    (2.5, [0.7, 4.0, 2 * math.pi - 4.7], (-0.4, 0.3)),
    (-1.0, [1.0, 1.0, 2 * math.pi - 2], (1.6, 0.2)),
]


def pixels(size: int) -> np.ndarray:
    at = np.linspace(-1, 1, size)
    return np.stack(np.meshgrid(at, at), axis=-1)  # (R, R, 2), x first


@pytest.mark.parametrize(("angle", "openings", "vertex"), CASES)
def test_wedges_are_ranges_of_angles(angle: float, openings: list[float], vertex: tuple[float, float]) -> None:
    wedges = junction(angle, openings, vertex).wedges(16, eta=1e-9)[0, ..., 0, 0]
    torch.testing.assert_close(wedges.sum(0), torch.ones(16, 16, dtype=torch.float64))
    x, y = np.moveaxis(pixels(16) - np.array(vertex), -1, 0)
    turn = (np.arctan2(y, x) - angle) % (2 * math.pi)
    expected = np.digitize(turn, np.cumsum(openings)[:2])
    assert (wedges.argmax(0).numpy() == expected).all()
    assert float(wedges.amax(0).min()) > 0.99


@pytest.mark.parametrize(("angle", "openings", "vertex"), CASES)
def test_distance_is_to_the_nearest_of_three_rays(
    angle: float, openings: list[float], vertex: tuple[float, float]
) -> None:
    size = 9
    directions = angle + np.concatenate([[0], np.cumsum(openings)[:2]])
    t = np.linspace(0, 4, 8001)[:, None]
    rays = np.concatenate([np.array(vertex) + t * np.array([math.cos(d), math.sin(d)]) for d in directions])
    gaps = np.sqrt(((pixels(size).reshape(-1, 1, 2) - rays[None]) ** 2).sum(-1)).min(1).reshape(size, size)
    own = junction(angle, openings, vertex).distance(size)[0, ..., 0, 0]
    np.testing.assert_allclose(own.numpy(), gaps * (size - 1) / 2, atol=2e-3)


def test_area_of_a_wedge_and_a_quarter_turn() -> None:
    field = junction(0.4, [1.2, 2.2, 2 * math.pi - 3.4], (0.0, 0.0))
    wedges = field.wedges(201, eta=1e-9)[0, ..., 0, 0]
    disc = torch.from_numpy(np.linalg.norm(pixels(201), axis=-1) < 1)
    torch.testing.assert_close(wedges[:, disc].mean(1), field.openings[0, :, 0, 0] / (2 * math.pi), atol=3e-3, rtol=0)
    turned = junction(0.4 + math.pi / 2, [1.2, 2.2, 2 * math.pi - 3.4], (0.0, 0.0))
    # A quarter turn from x to y, down: what was at the right is at the bottom.
    torch.testing.assert_close(turned.wedges(11)[0, ..., 0, 0], field.wedges(11)[0, ..., 0, 0].rot90(-1, (1, 2)))
    torch.testing.assert_close(turned.distance(11)[0, ..., 0, 0], field.distance(11)[0, ..., 0, 0].rot90(-1, (0, 1)))


def test_equals_the_released_renderer() -> None:
    """The released program's formulas, written in numpy from `render_junctions.py`."""
    angle, openings, vertex = CASES[0]
    size, eta, delta = 17, 1e-4, 1e-3
    x, y = np.moveaxis(pixels(size) - np.array(vertex), -1, 0)
    starts = angle + np.concatenate([[0], np.cumsum(openings)[:2]])
    length = np.hypot(x, y)
    wedges, branches, lines = [], [], []
    for start, opening in zip(starts, openings, strict=True):
        middle = start + opening / 2
        inside = x * np.cos(middle) + y * np.sin(middle) - np.cos(opening / 2) * length
        wedges.append(0.5 * (1 + 2 / np.pi * np.arctan(inside / eta)))
        ahead = x * np.cos(start) + y * np.sin(start)
        branches.append(np.where(ahead > 0, np.abs(-x * np.sin(start) + y * np.cos(start)), length))
        lines.append(1 / (1 + ((ahead - length) * length / delta) ** 2))
    field = junction(angle, openings, vertex)
    expected = np.stack(wedges) / np.sum(wedges, axis=0)
    np.testing.assert_allclose(field.wedges(size)[0, ..., 0, 0].numpy(), expected, atol=1e-7)
    released = np.min(branches, axis=0) * size / 2  # their pixels are R / (R - 1) of ours
    np.testing.assert_allclose(field.distance(size)[0, ..., 0, 0].numpy() * size / (size - 1), released, atol=1e-9)
    np.testing.assert_allclose(field.boundary(size)[0, ..., 0, 0].numpy(), np.max(lines, axis=0), atol=1e-6)


def test_free_numbers_become_junctions_with_finite_gradients() -> None:
    raw = torch.randn(2, 7, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    field = JunctionField.from_raw(raw)
    torch.testing.assert_close(field.openings.sum(1), torch.full((2, 3, 4), 2 * math.pi, dtype=torch.float64))
    torch.testing.assert_close(field.openings[:, 0] / field.openings[:, 1], raw[:, 2].sigmoid() / raw[:, 3].sigmoid())
    angle = torch.atan2(raw[:, 1].tanh(), raw[:, 0].tanh())
    same = JunctionField.of_angles(angle, field.openings, raw[:, 5:])
    torch.testing.assert_close(field.wedges(7), same.wedges(7))
    torch.testing.assert_close(field.boundary(7), same.boundary(7))
    for start in (torch.zeros(1, 7, 1, 1), torch.randn(1, 7, 1, 1)):  # at 0 the vertex lies on a pixel's centre
        numbers = start.clone().requires_grad_()
        rendered = JunctionField.from_raw(numbers)
        total: Tensor = rendered.wedges(5, eta=0.1).square().sum() + rendered.distance(5).sum()
        (total + rendered.boundary(5).sum()).backward()
        assert numbers.grad is not None
        assert bool(numbers.grad.isfinite().all())


def test_gradients_equal_differences() -> None:
    raw = torch.randn(1, 7, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    for render in (lambda f: f.wedges(4, eta=0.3), lambda f: f.distance(4), lambda f: f.boundary(4, delta=0.3)):
        assert torch.autograd.gradcheck(lambda r, render=render: render(JunctionField.from_raw(r)), raw)


def test_what_does_not_fit_is_refused() -> None:
    field = junction(0, [1, 1, 1], (0, 0))
    with pytest.raises(UsageError, match="eta must be above 0"):
        field.wedges(5, eta=0)
    with pytest.raises(UsageError, match="delta must be"):
        field.boundary(5, delta=math.nan)
    with pytest.raises(UsageError, match="size must be a whole number of at least 2"):
        field.distance(1)
    with pytest.raises(UsageError, match=r"raw must be"):
        JunctionField.from_raw(torch.rand(1, 4, 2, 2))
    with pytest.raises(UsageError, match=r"angle \(B, h, w\)"):
        JunctionField.of_angles(torch.rand(1, 2, 2), torch.rand(1, 3, 2, 2), torch.rand(1, 2, 3, 2))
