"""The neural field of slices (p173, arXiv 2211.12886): the architecture term by term, the hinge, and known solids."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.vision import FieldSamples, PlanarSlice, SliceField, gradient_hinge


def circle(radius: float, count: int = 32) -> Tensor:
    angles = torch.arange(count) * (2 * math.pi / count)
    return radius * torch.stack([angles.cos(), angles.sin()], 1)


def sphere_slices(radius: float = 1.0, centre: float = 0.0) -> list[PlanarSlice]:
    """Three great circles and four smaller ones of a sphere."""
    axes = [torch.eye(3)[[0, 1]], torch.eye(3)[[1, 2]], torch.eye(3)[[2, 0]]]
    middle = torch.full((3,), centre)
    great = [PlanarSlice((circle(radius),), middle, pair) for pair in axes]
    small = [
        PlanarSlice((circle((radius**2 - z * z) ** 0.5),), middle + torch.tensor([0, 0, z]), axes[0])
        for z in (-0.7 * radius, -0.4 * radius, 0.4 * radius, 0.7 * radius)
    ]
    return [*great, *small]


def by_hand(field: SliceField, points: Tensor) -> list[Tensor]:
    """The released network: one MLP on code, logit and state concatenated, round by round."""
    cosines = [(points[:, axis] * f).cos() for axis in range(3) for f in field.cos_frequencies]
    sines = [(points[:, axis] * f).sin() for axis in range(3) for f in field.sin_frequencies]
    code = torch.stack([*points.T, *cosines, *sines], 1)
    logit, state = field.initial_logit.expand(len(points), 1), field.initial_hidden.expand(len(points), -1)
    layers: list[nn.Module] = []
    for layer in field.layers:
        layers += [layer, nn.LeakyReLU()]
    network, result = nn.Sequential(*layers[:-1]), []
    for number in range(field.iterations):
        parts = [f(number * 2.0**k) for k in range(16) for f in (math.sin, math.cos)]
        state = state + torch.tensor(parts).to(state)
        out = network(torch.cat([code, logit, state], 1))
        logit, state = logit + out[:, :1], out[:, 1:]
        result.append(logit[:, 0])
    return result


def test_the_rounds_are_the_released_ones() -> None:
    torch.manual_seed(0)
    field = SliceField().double()
    assert [tuple(layer.weight.shape) for layer in field.layers] == [(64, 66), *[(64, 64)] * 6, (33, 64)]
    assert field.cos_frequencies.tolist() == [1, 2, 4, 8, 16]
    points = torch.rand(5, 3, dtype=torch.float64) * 2 - 1
    torch.testing.assert_close(field(points), torch.stack(by_hand(field, points)))


def test_a_shorter_run_gives_the_first_logits() -> None:
    torch.manual_seed(1)
    long, short = SliceField(iterations=4, width=8, depth=2), SliceField(iterations=1, width=8, depth=2)
    short.load_state_dict(long.state_dict())
    points = torch.rand(6, 3)
    torch.testing.assert_close(short(points)[0], long(points)[0])


def test_the_hinge_of_a_linear_field_is_what_its_slope_exceeds() -> None:
    points = torch.rand(7, 3, requires_grad=True)
    slope = torch.tensor([3.0, 4.0, 12.0], requires_grad=True)
    assert gradient_hinge(points, points @ slope, 13.0).item() == 0
    over = gradient_hinge(points, points @ slope, 10.0)
    assert over.item() == pytest.approx(3.0)
    (gradient,) = torch.autograd.grad(over, slope)
    torch.testing.assert_close(gradient, slope.detach() / 13)


def test_the_loss_is_the_mean_over_rounds_and_the_hinge_sees_the_last() -> None:
    torch.manual_seed(2)
    field = SliceField(iterations=3, width=8, depth=2).double()
    samples = FieldSamples(torch.rand(9, 3).double(), torch.tensor([0.0, 0.5, 1.0] * 3).double())
    points = samples.points.clone().requires_grad_()
    logits = field(points)
    terms = [F.binary_cross_entropy_with_logits(row, samples.labels) for row in logits]
    norms = torch.stack([
        torch.autograd.grad(logits[-1, n], points, retain_graph=True)[0][n].norm() for n in range(9)
    ])  # fmt: skip
    threshold = float(norms.median())
    expected = sum(terms) / 3 + 0.5 * (norms - threshold).clamp(min=0).mean()
    torch.testing.assert_close(field.loss(samples, hinge=0.5, threshold=threshold), expected)
    torch.testing.assert_close(field.loss(samples, hinge=0.0), sum(terms) / 3)


@pytest.fixture(scope="module")
def ball() -> SliceField:
    torch.manual_seed(0)
    field = SliceField(iterations=2, width=32, depth=3)
    settings = {"epochs": (15, 15), "batch": 1024, "noise": 256, "hull": 512, "hinge": 0.0}
    return field.fit(sphere_slices(5.0, centre=20.0), generator=torch.Generator().manual_seed(0), **settings)


def test_a_sphere_comes_back_from_its_slices_in_their_units(ball: SliceField) -> None:
    points = 20 + 14 * (torch.rand(20_000, 3, generator=torch.Generator().manual_seed(3)) - 0.5)
    inside, exact = ball.logits(points) < 0, (points - 20).norm(dim=1) < 5
    assert float((inside & exact).sum() / (inside | exact).sum()) > 0.9
    surface = ball.mesh(32)
    assert surface.is_closed
    assert surface.volume == pytest.approx(4 / 3 * math.pi * 125, rel=0.1)
    assert surface.vertices.mean(0).tolist() == pytest.approx([20.0] * 3, abs=0.5)


def test_held_out_points_of_the_planes_are_labelled_right(ball: SliceField) -> None:
    right = []
    for part in sphere_slices(5.0, centre=20.0):
        flat = 12 * (torch.rand(1000, 2, generator=torch.Generator().manual_seed(5)) - 0.5)
        right.append((ball.logits(part.lift(flat)) < 0) == part.inside(flat))
    assert float(torch.cat(right).float().mean()) > 0.97


def test_epochs_and_levels_are_said_when_they_are_over() -> None:
    angles = torch.arange(12) * 2 * torch.pi / 12
    circle = torch.stack([angles.cos(), angles.sin()], 1)
    slices = [PlanarSlice.horizontal([circle], z) for z in (0.0, 1.0)]
    calls: list[tuple[int, ...]] = []
    SliceField(iterations=1, width=4, depth=1).fit(
        slices, epochs=(2, 1), noise=4, hull=4, progress=lambda done, total: calls.append((done, total)),
        level_done=lambda level: calls.append((level,)),
    )  # fmt: skip
    assert calls == [(1, 3), (2, 3), (0,), (3, 3), (1,)]


def test_scale_and_place_of_the_slices_do_not_matter() -> None:
    def fitted(radius: float, centre: float) -> SliceField:
        torch.manual_seed(4)
        field = SliceField(iterations=2, width=8, depth=1)
        slices = sphere_slices(radius, centre)
        return field.fit(slices, epochs=(2,), batch=512, noise=16, hull=16, generator=torch.Generator().manual_seed(0))

    small, large = fitted(1.0, 0.0), fitted(8.0, 0.0)
    points = torch.rand(50, 3) * 2 - 1
    torch.testing.assert_close(small.logits(points), large.logits(8 * points), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SliceField(iterations=0), "iterations"),
        (lambda: SliceField(hidden=31), "hidden must be even"),
        (lambda: SliceField().fit(sphere_slices(), epochs=()), "1 to 6 levels"),
        (lambda: SliceField().fit(sphere_slices(), lr=math.nan), "lr"),
        (lambda: SliceField().fit([PlanarSlice.horizontal([], 0.0)]), "no slice has a contour"),
        (lambda: SliceField().mesh(4), "resolution"),
        (lambda: gradient_hinge(torch.zeros(2, 3), torch.zeros(2)), "requires_grad"),
    ],
)
def test_what_cannot_be_fitted_is_refused(call: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()  # type: ignore[operator]
