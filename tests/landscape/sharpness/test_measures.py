"""Sharpness (p084; arXiv 2302.07011) against quadratics, small radii, rescaled networks and random search."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.landscape import Neighbourhood, average_sharpness, classification_loss, worst_case_sharpness

A = torch.tensor([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 0.4]], dtype=torch.float64)
W = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)


def quadratic(w):
    return lambda batch: 0.5 * batch * (w @ A @ w)


def trust_region(matrix: np.ndarray, gradient: np.ndarray, rho: float) -> float:
    """max g'd + d'Md/2 over ||d|| <= rho, by the eigenvalues of M: (lambda - M) d = g with lambda above them all."""
    values, vectors = np.linalg.eigh(matrix)
    b = vectors.T @ gradient
    length = lambda lam: np.linalg.norm(b / (lam - values)) - rho  # noqa: E731
    lam = brentq(length, values[-1] + 1e-12, values[-1] + np.linalg.norm(b) / rho + 1)
    y = b / (lam - values)
    return float(b @ y + 0.5 * values @ (y * y))


@pytest.mark.parametrize("scale", ["none", "weight"])
def test_the_worst_case_of_a_quadratic_is_the_trust_regions(scale):
    w = nn.Parameter(W.clone())
    c = np.abs(W.numpy()) if scale == "weight" else np.ones(3)
    found = worst_case_sharpness(quadratic(w), [1.0, 2.0], Neighbourhood([w], 0.4, scale=scale), steps=100)
    exact = trust_region(A.numpy() * np.outer(c, c), c * (A @ W).numpy(), 0.4)
    np.testing.assert_allclose(found.values.numpy(), [exact, 2 * exact], rtol=1e-4)
    assert float(found.values[0]) <= exact * (1 + 1e-9)
    usual = worst_case_sharpness(quadratic(w), [1.0], Neighbourhood([w], 0.4, scale=scale))
    assert usual.mean == pytest.approx(exact, rel=0.01)
    assert found.mean == pytest.approx(1.5 * exact, rel=1e-4)
    assert torch.equal(w.detach(), W)


def test_the_released_ascent_stops_below_the_maximum_where_units_differ():
    w = nn.Parameter(W.clone())
    c = W.abs().numpy()
    exact = trust_region(A.numpy() * np.outer(c, c), c * (A @ W).numpy(), 0.4)
    ball = Neighbourhood([w], 0.4, scale="weight")
    found = worst_case_sharpness(quadratic(w), [1.0], ball, steps=200, legacy=True)
    assert 0.95 * exact < found.mean < 0.99 * exact


def test_at_a_minimum_it_is_the_largest_eigenvalue():
    w = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    found = worst_case_sharpness(quadratic(w), [1.0], Neighbourhood([w], 0.1), restarts=3, steps=60)
    assert found.mean == pytest.approx(0.5 * 0.01 * float(torch.linalg.eigvalsh(A)[-1]), rel=1e-3)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("scale", ["none", "weight", "box"])
def test_at_a_small_radius_it_is_the_dual_norm_of_the_gradient(norm, scale):
    w = nn.Parameter(W.clone())
    c = {"none": torch.ones(3), "weight": W.abs(), "box": W.abs() + 1}[scale]
    found = worst_case_sharpness(quadratic(w), [1.0], Neighbourhood([w], 1e-5, norm=norm, scale=scale))
    dual = torch.linalg.vector_norm(c * (A @ W), ord=2 if norm == "l2" else 1)
    assert found.mean / 1e-5 == pytest.approx(float(dual), rel=1e-3)


@pytest.mark.parametrize(("norm", "variance"), [("l2", 1.0), ("linf", 1 / 3)])
def test_the_average_on_a_quadratic_is_the_trace(norm, variance):
    w = nn.Parameter(W.clone())
    ball = Neighbourhood([w], 0.5, norm=norm, scale="weight")
    found = average_sharpness(quadratic(w), [1.0] * 8, ball, draws=150)
    exact = 0.5 * 0.25 * variance * float((W**2 * A.diagonal()).sum())
    assert abs(found.mean - exact) < 4 * found.standard_error
    assert found.standard_error < 0.2 * exact
    assert torch.equal(w.detach(), W)


def relu_net() -> tuple[nn.Sequential, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6, bias=False), nn.ReLU(), nn.Linear(6, 3, bias=False)).double()
    return net, (torch.randn(30, 4, dtype=torch.float64), torch.randint(0, 3, (30,)))


@pytest.mark.parametrize("scale", ["none", "weight"])
def test_only_adaptive_sharpness_is_the_same_for_a_rescaled_network(scale):
    values = {}
    for factor in (1.0, 8.0):
        net, batch = relu_net()
        with torch.no_grad():
            net[0].weight.mul_(factor)
            net[2].weight.div_(factor)
        ball = Neighbourhood(net, 0.2, scale=scale)
        values[factor] = [
            worst_case_sharpness(classification_loss(net), [batch], ball, steps=10).mean,
            average_sharpness(classification_loss(net), [batch], ball).mean,
        ]
    same = np.allclose(values[1.0], values[8.0], rtol=1e-8)
    assert same == (scale == "weight")


def test_no_random_direction_is_worse():
    net, batch = relu_net()
    loss = classification_loss(net)
    ball = Neighbourhood(net, 0.5)
    found = worst_case_sharpness(loss, [batch], ball)
    assert float(found.lengths[0]) <= 0.5 + 1e-9
    generator = torch.Generator().manual_seed(0)
    start, best = float(loss(batch).detach()), 0.0
    for _ in range(300):
        d = ball.sample(generator)
        d = [0.5 * part / float(ball.length(d)) for part in d]
        with ball.at(d), torch.no_grad():
            best = max(best, float(loss(batch).detach()) - start)
    assert 0 < best <= 1.01 * found.mean
    assert found.mean > 1.5 * best


def test_the_maximum_is_of_each_batch():
    w = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    linear = lambda g: (w * g).sum()  # noqa: E731
    batches = [torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])]
    found = worst_case_sharpness(linear, batches, Neighbourhood([w], 0.3))
    assert found.mean == pytest.approx(0.3)  # of the averaged loss it would be 0


def test_a_second_figure_and_normalised_logits():
    net, batch = relu_net()
    error = lambda b: (net(b[0]).argmax(1) != b[1]).double().mean()  # noqa: E731
    found = worst_case_sharpness(classification_loss(net), [batch], Neighbourhood(net, 1.0), figure=error)
    assert found.figures is not None
    assert float(found.figures[0]) > 0
    loss = classification_loss(net, normalise_logits=True)
    before = float(loss(batch).detach())
    logits = net(batch[0]).detach()
    unit = logits / logits.norm(dim=1, keepdim=True).clamp_min(1e-30)  # a row of zeros stays one
    assert before == pytest.approx(float(F.cross_entropy(unit, batch[1])))
    with torch.no_grad():
        net[2].weight.mul_(50)
    assert float(loss(batch).detach()) == pytest.approx(before)


def test_a_loss_that_bursts_is_infinite_and_a_broken_start_is_refused():
    w = nn.Parameter(torch.ones(1, dtype=torch.float64))
    # The square root is not a number beyond 1.1.
    found = worst_case_sharpness(lambda _: -torch.sqrt(1.1 - w).sum(), [None], Neighbourhood([w], 0.5))
    assert math.isinf(found.mean)
    assert float(w.detach()) == 1.0
    with pytest.raises(UsageError, match="batch 1 is nan"):
        worst_case_sharpness(lambda b: (w * b).sum(), [1.0, math.nan], Neighbourhood([w], 0.5))


def test_mistakes_are_named():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    ball = Neighbourhood(net, 0.1)
    for measure in (worst_case_sharpness, average_sharpness):
        with pytest.raises(UsageError, match="eval"):
            measure(lambda x: net(x).sum(), [torch.randn(5, 3)], ball)
    net.eval()
    with pytest.raises(UsageError, match="batch"):
        average_sharpness(lambda x: net(x).sum(), [], ball)
    for settings in ({"steps": 0}, {"restarts": 0}):
        with pytest.raises(UsageError, match=next(iter(settings))):
            worst_case_sharpness(lambda x: net(x).sum(), [torch.randn(5, 3)], ball, **settings)
    with pytest.raises(UsageError, match="draws"):
        average_sharpness(lambda x: net(x).sum(), [torch.randn(5, 3)], ball, draws=0)
    frozen = torch.ones(2)
    with pytest.raises(UsageError, match="does not require a gradient"):
        worst_case_sharpness(lambda _: frozen.sum(), [None], Neighbourhood([frozen], 0.1))
