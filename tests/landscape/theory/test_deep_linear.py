"""p136: deep linear networks against the pseudo-inverse, conserved quantities and a plain loop of autograd."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from binderclip.errors import NotSupported, UsageError
from binderclip.landscape import DeepLinearNet, benign_overfitting_report, effective_ranks, min_norm_interpolant
from binderclip.landscape.theory.deep_linear import excess_risk


def data(samples: int = 6, inputs: int = 20, outputs: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(samples, inputs, generator=generator, dtype=torch.float64),
        torch.randn(samples, outputs, generator=generator, dtype=torch.float64),
    )


def test_the_least_norm_map_is_the_limit_of_ridge_regression() -> None:
    inputs, targets = data()
    X, Y = inputs.numpy(), targets.numpy()
    ridge = np.linalg.solve(X.T @ X + 1e-9 * np.eye(20), X.T @ Y).T
    assert np.allclose(min_norm_interpolant(inputs, targets), ridge, atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_an_interpolant_is_the_least_norm_map_and_what_the_start_left_off_the_span(depth: int) -> None:
    inputs, targets = data()
    net = DeepLinearNet(20, 2, depth=depth, width=7, alpha=0.3, beta=0.5, seed=1)
    first = net.layers[0].detach().clone()
    net.interpolate(inputs, targets, tolerance=1e-20, steps=300_000)
    X = inputs.numpy()
    on_span = X.T @ np.linalg.solve(X @ X.T, X)
    off_span = torch.from_numpy(np.eye(20) - on_span)
    least_norm = torch.from_numpy(np.linalg.lstsq(X, targets.numpy(), rcond=None)[0].T)
    theta = net.end_to_end()
    assert torch.allclose(theta @ torch.from_numpy(on_span), least_norm, atol=1e-8)
    # dW_1 lies in the row span of X, so what the first layer had off it is there still
    assert torch.allclose((net.layers[0].detach() - first) @ off_span, torch.zeros(len(first), 20).double(), atol=1e-10)
    after = torch.eye(7).double() if depth > 1 else torch.zeros(2, 2).double()
    for weight in list(net.layers)[1:]:
        after = weight.detach() @ after
    assert torch.allclose(theta, least_norm + after @ first @ off_span, atol=1e-8)
    if depth == 1:
        assert torch.allclose(theta, least_norm, atol=1e-8)


def test_the_off_span_part_is_not_kept_by_weight_decay() -> None:
    """What the invariant is worth: an optimizer with decay breaks it."""
    inputs, targets = data()
    net = DeepLinearNet(20, 2, depth=2, width=7, alpha=0.3, seed=1)
    first = net.layers[0].detach().clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=1e-3, weight_decay=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        (net(inputs) - targets).square().sum().backward()
        optimizer.step()
    off_span = torch.eye(20).double() - torch.linalg.pinv(inputs) @ inputs
    assert ((net.layers[0].detach() - first) @ off_span).norm() > 1e-2


def test_descent_is_that_of_autograd() -> None:
    inputs, targets = data()
    net = DeepLinearNet(20, 2, depth=3, width=5, alpha=0.2, seed=2)
    twin = [weight.detach().clone().requires_grad_() for weight in net.layers]
    norms = [float(np.linalg.norm(weight.detach().numpy(), 2)) ** 2 for weight in twin]
    smoothness = 2 * float(np.linalg.norm(inputs.numpy(), 2)) ** 2
    smoothness *= norms[1] * norms[2] + norms[0] * norms[2] + norms[0] * norms[1]
    with pytest.raises(NotSupported, match="after 40 steps"):
        net.interpolate(inputs, targets, step=0.3, steps=40)
    for _ in range(40):
        loss = (inputs @ twin[0].T @ twin[1].T @ twin[2].T - targets).square().sum()
        grads = torch.autograd.grad(loss, twin)
        with torch.no_grad():
            for weight, grad in zip(twin, grads, strict=True):
                weight -= 0.3 / smoothness * grad
    for weight, other in zip(net.layers, twin, strict=True):
        assert torch.allclose(weight, other, atol=1e-12)


def test_balancedness_drifts_less_with_a_shorter_step() -> None:
    inputs, targets = data()
    drifts = []
    for step in (0.5, 0.05):
        net = DeepLinearNet(20, 2, depth=3, width=6, alpha=0.3, seed=3)
        before = net.balancedness()
        net.interpolate(inputs, targets, step=step)
        drifts.append(max(float((a - b).norm()) for a, b in zip(net.balancedness(), before, strict=True)))
    assert 5 * drifts[1] < drifts[0] < 1  # the drift of a flow is nought; that of steps is linear in their length


@given(
    values=st.lists(st.floats(1e-3, 10), min_size=2, max_size=40),
    samples=st.integers(1, 20),
    b=st.sampled_from([0.1, 0.5, 1.0]),
)
def test_effective_ranks_are_their_definition(values: list[float], samples: int, b: float) -> None:
    ranks = effective_ranks(torch.tensor(values, dtype=torch.float64), samples, b=b)
    spectrum = sorted(values, reverse=True)
    for k in range(len(spectrum)):
        tail = spectrum[k:]
        if sum(tail) / tail[0] >= b * samples * (1 + 1e-9):
            assert ranks.head is not None
            assert ranks.head <= k
            break
    if ranks.head is None:
        assert ranks.variance_rate == float("inf")
    else:
        tail = spectrum[ranks.head :]
        assert ranks.r == pytest.approx(sum(tail) / tail[0])
        assert pytest.approx(sum(tail) ** 2 / sum(v * v for v in tail)) == ranks.R
        assert ranks.variance_rate == pytest.approx(ranks.head / samples + samples / ranks.R)
        assert len(tail) >= ranks.R * (1 - 1e-9) >= 1 - 1e-9  # 1 <= R_k <= d - k


def test_a_flat_spectrum_has_its_dimension_as_ranks() -> None:
    ranks = effective_ranks(torch.ones(50), 10)
    assert (ranks.head, ranks.r, ranks.R, ranks.tail) == (0, 50, 50, 50)
    assert ranks.variance_rate == pytest.approx(0.2)


def test_the_report_takes_the_risk_apart() -> None:
    eigenvalues = torch.cat([torch.ones(3), torch.full((57,), 0.02)]).double()
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(12, 60, generator=generator, dtype=torch.float64) * eigenvalues.sqrt()
    noise = torch.randn(12, 1, generator=generator, dtype=torch.float64)
    truth = torch.zeros(1, 60, dtype=torch.float64)
    truth[0, :3] = 1
    small = benign_overfitting_report(
        DeepLinearNet(60, depth=3, width=12, alpha=1e-4), inputs, noise, truth, eigenvalues, tolerance=1e-16
    )
    X, omega = inputs.numpy(), noise.numpy()[:, 0]
    gram = np.linalg.inv(X @ X.T)
    assert small.variance == pytest.approx(float(omega @ gram @ X @ np.diag(eigenvalues) @ X.T @ gram @ omega))
    missed = (np.eye(60) - X.T @ gram @ X) @ truth.numpy()[0]
    assert small.shallow_bias == pytest.approx(float(missed @ np.diag(eigenvalues) @ missed))
    assert small.null_risk == pytest.approx(3)
    assert small.span_error < 1e-6
    assert small.risk == pytest.approx(small.shallow_risk, rel=1e-2)
    assert small.bias == pytest.approx(small.shallow_bias, rel=1e-2)
    large = benign_overfitting_report(
        DeepLinearNet(60, depth=3, width=12, alpha=1.0), inputs, noise, truth, eigenvalues, tolerance=1e-16
    )
    assert large.variance == small.variance
    assert large.span_error < 1e-6
    assert large.bias > 10 * small.bias


def test_the_risk_is_that_of_a_sample() -> None:
    generator = torch.Generator().manual_seed(0)
    eigenvalues, theta, truth = (torch.rand(n, 5, generator=generator).double() for n in (1, 2, 2))
    sample = torch.randn(200_000, 5, generator=generator).double() * eigenvalues[0].sqrt()
    mean = (sample @ (theta - truth).T).square().sum(1).mean()
    assert float(excess_risk(theta, truth, eigenvalues[0])) == pytest.approx(float(mean), rel=0.02)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"depth": 0}, "depth"),
        ({"width": 1, "outputs": 2}, "width"),
        ({"alpha": -1.0}, "alpha"),
        ({"beta": float("nan")}, "beta"),
    ],
)
def test_a_network_that_cannot_be_is_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        DeepLinearNet(20, **settings)


def test_data_that_do_not_fit_are_refused() -> None:
    inputs, targets = data()
    with pytest.raises(UsageError, match="do not fit a map from 19"):
        DeepLinearNet(19, 2).interpolate(inputs, targets)
    with pytest.raises(UsageError, match="same number of rows"):
        min_norm_interpolant(inputs, targets[:3])
    with pytest.raises(UsageError, match="same number of rows"):
        min_norm_interpolant(inputs[:0], targets[:0])
    with pytest.raises(UsageError, match="finite"):
        min_norm_interpolant(inputs, targets / 0)
    with pytest.raises(UsageError, match="finite and at least 0"):
        effective_ranks(torch.tensor([1.0, -1.0]), 3)
    with pytest.raises(UsageError, match="finite and at least 0"):
        effective_ranks(torch.zeros(0), 3)
    with pytest.raises(NotSupported, match="fewer samples than inputs"):
        DeepLinearNet(3, 1).interpolate(torch.randn(9, 3).double(), torch.randn(9, 1).double(), steps=200)
