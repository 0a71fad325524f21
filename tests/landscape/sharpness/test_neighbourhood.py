"""Neighbourhoods (p076; arXiv 2010.01412) against the optimality of a projection and the duality of norms."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from binderclip.errors import UsageError
from binderclip.landscape import Neighbourhood

SCALES = ["none", "weight", "box", "filter", "layer"]


def weights() -> dict[str, nn.Parameter]:
    g = torch.Generator().manual_seed(3)
    matrix, bias = torch.randn(4, 3, generator=g, dtype=torch.float64), torch.randn(4, generator=g, dtype=torch.float64)
    matrix[0, 0] = 1e-6  # a unit that is far smaller than the others
    return {"matrix": nn.Parameter(matrix), "bias": nn.Parameter(bias)}


def flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def noise(seed: int, size: float = 1.0) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [size * torch.randn(p.shape, generator=g, dtype=p.dtype) for p in weights().values()]


def units(scale: str) -> torch.Tensor:
    """c, written out for each weight."""
    matrix, bias = (p.detach() for p in weights().values())
    rows = matrix.square().sum(1).sqrt()[:, None].expand_as(matrix)
    each = {
        "none": (torch.ones_like(matrix), torch.ones_like(bias)),
        "weight": (matrix.abs(), bias.abs()),
        "box": (matrix.abs() + 1, bias.abs() + 1),
        "filter": (rows, torch.zeros_like(bias)),
        "layer": (matrix.norm().expand_as(matrix), bias.norm().expand_as(bias)),
    }[scale]
    return flat(list(each))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_projection_is_the_nearest_point_of_the_ball(norm, scale):
    ball, c = Neighbourhood(weights(), 0.3, norm=norm, scale=scale), units(scale)
    order = 2 if norm == "l2" else float("inf")
    v = flat(noise(0, 2.0))
    projected = flat(ball.project(noise(0, 2.0)))
    moving = c > 0
    length = torch.linalg.vector_norm(projected[moving] / c[moving], ord=order)
    assert float(length) == pytest.approx(0.3, rel=1e-6)
    assert float(projected[~moving].abs().sum()) == 0
    # A point is the projection on a convex set if and only if v is behind it, seen from every point of the set.
    for seed in range(200):
        u = torch.randn(len(c), generator=torch.Generator().manual_seed(seed), dtype=c.dtype)
        inside = 0.3 * c * u / torch.linalg.vector_norm(u[moving], ord=order)
        assert float((v - projected)[moving] @ (inside - projected)[moving]) <= 1e-8
    rescaled = flat(ball.project(noise(0, 2.0), in_units=True))
    round_ball = scale == "none" or norm == "linf"
    assert bool(torch.allclose(rescaled, projected)) == round_ball or scale == "filter"
    assert float(torch.linalg.vector_norm(rescaled[moving] / c[moving], ord=order)) == pytest.approx(0.3)
    again = flat(ball.project(ball.project(noise(0, 2.0))))
    torch.testing.assert_close(again, projected, rtol=1e-6, atol=1e-9)
    small = ball.project([1e-9 * c * n for c, n in zip(ball.scales, noise(0), strict=True)])
    torch.testing.assert_close(flat(small), 1e-9 * c * flat(noise(0)), rtol=1e-12, atol=0)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_step_reaches_the_dual_norm(norm, scale):
    ball, c, g = Neighbourhood(weights(), 0.7, norm=norm, scale=scale), units(scale), flat(noise(1))
    step = flat(ball.step(noise(1)))
    dual = (c * g).norm() if norm == "l2" else (c * g).abs().sum()
    assert float(step @ g) == pytest.approx(float(0.7 * dual))
    assert float(ball.length(ball.step(noise(1)))) == pytest.approx(0.7)


def test_samples_have_the_units_as_their_spread():
    for norm, spread in (("l2", 1.0), ("linf", 3**-0.5)):
        ball = Neighbourhood(weights(), 0.5, norm=norm, scale="box")
        generator = torch.Generator().manual_seed(0)
        draws = torch.stack([flat(ball.sample(generator)) for _ in range(1500)])
        torch.testing.assert_close(
            draws.std(0) / units("box"), torch.full((16,), 0.5 * spread).double(), rtol=0.1, atol=0
        )
    assert float((draws.abs() / units("box")).max()) <= 0.5
    same = [flat(ball.sample(torch.Generator().manual_seed(7))) for _ in range(2)]
    assert torch.equal(*same)


def test_the_weights_come_back_bit_for_bit():
    params = weights()
    before = flat(list(params.values()))
    ball = Neighbourhood(params, 0.1)
    try:
        with ball.at({"bias": noise(2)[1], "matrix": noise(2)[0]}):
            torch.testing.assert_close(flat(list(params.values())), before + flat(noise(2)))
            raise ZeroDivisionError
    except ZeroDivisionError:
        pass
    assert torch.equal(flat(list(params.values())), before)


def test_a_space_is_a_module_a_layer_or_names():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    net[0].bias.requires_grad_(False)
    net.tied = net[1].weight
    assert (
        Neighbourhood(net, 0.1).names == ("0.weight", "1.weight", "1.bias") or "tied" in Neighbourhood(net, 0.1).names
    )
    assert len(Neighbourhood(net, 0.1).params) == 3
    assert Neighbourhood(net[1], 0.1).names == ("weight", "bias")
    assert Neighbourhood({"w": net[1].weight}, 0.1, scale="weight").text == "l2, radius 0.1 in units of |w|"


def test_a_unit_of_zero_does_not_move_and_a_floor_lets_it():
    w = torch.tensor([0.0, 2.0])
    fixed, free = Neighbourhood([w], 1.0, scale="weight"), Neighbourhood([w], 1.0, scale="weight", eta=0.5)
    gradient = [torch.tensor([5.0, 0.0])]
    assert float(fixed.step(gradient)[0].abs().sum()) == 0
    assert float(fixed.length([torch.tensor([1e-3, 0.0])])) == float("inf")
    torch.testing.assert_close(free.step(gradient)[0], torch.tensor([0.5, 0.0]))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"rho": -0.1}, "rho"),
        ({"rho": float("nan")}, "rho"),
        ({"rho": 0.1, "norm": "l1"}, "norm"),
        ({"rho": 0.1, "scale": "row"}, "scale"),
        ({"rho": 0.1, "eta": -1.0}, "eta"),
    ],
)
def test_wrong_settings_are_named(settings, word):
    with pytest.raises(UsageError, match=word):
        Neighbourhood([torch.ones(2)], **settings)


def test_wrong_weights_are_named():
    with pytest.raises(UsageError, match="at least one"):
        Neighbourhood([], 0.1)
    with pytest.raises(UsageError, match="parameter b "):
        Neighbourhood({"a": torch.ones(2), "b": torch.tensor([1.0, float("nan")])}, 0.1)
    with pytest.raises(UsageError, match="shape"):
        Neighbourhood([torch.ones(2)], 0.1).project([torch.ones(3)])
