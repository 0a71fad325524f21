"""Coupling flows (p054, arXiv 2403.15881): invertible; density and force are those of automatic differentiation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import CouplingFlow, effective_sample_size


def random_flow(dim: int, seed: int = 0, couplings: int = 3) -> CouplingFlow:
    torch.manual_seed(seed)
    flow = CouplingFlow(dim, couplings, width=8).double()
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.4)
    return flow


def points(dim: int, count: int = 5) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_it_is_invertible_and_its_determinant_is_that_of_the_jacobian(dim: int) -> None:
    flow, z = random_flow(dim), points(dim)
    x, log_det = flow(z)
    again, minus = flow.inverse(x)
    torch.testing.assert_close(again, z, rtol=0, atol=1e-10)
    torch.testing.assert_close(minus, -log_det)
    jacobians = torch.stack([torch.autograd.functional.jacobian(lambda one: flow(one[None])[0][0], row) for row in z])
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobians).logabsdet)
    normal = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(flow.log_prob(x), normal.log_prob(z).sum(1) - log_det)
    assert not torch.allclose(log_det, torch.zeros(5, dtype=torch.float64))


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_the_force_taken_along_is_the_gradient_of_the_density(dim: int) -> None:
    flow, z = random_flow(dim), points(dim)
    x, _, force = flow.forward_with_force(z, -z)
    leaf = x.detach().requires_grad_()
    (expected,) = torch.autograd.grad(flow.log_prob(leaf).sum(), leaf)
    torch.testing.assert_close(force, expected)
    assert not force.requires_grad
    # Back again it is that of the base, -z; and of any density of x that of its image.
    torch.testing.assert_close(flow.inverse_with_force(x, force)[2], -z)
    back, _, pulled = flow.inverse_with_force(x, -2 * x.detach())
    leaf = back.detach().requires_grad_()
    images, log_det = flow(leaf)
    (expected,) = torch.autograd.grad((-images.square().sum(1) + log_det).sum(), leaf)
    torch.testing.assert_close(pulled, expected)


def test_it_starts_as_the_standard_normal_distribution() -> None:
    flow = CouplingFlow(5)
    x, log_prob = flow.sample(7, torch.Generator().manual_seed(3))
    torch.testing.assert_close(x, torch.randn(7, 5, generator=torch.Generator().manual_seed(3)))
    torch.testing.assert_close(log_prob, torch.distributions.Normal(0.0, 1.0).log_prob(x).sum(1))


def test_effective_sample_size_is_what_weights_of_a_normal_distribution_give() -> None:
    weights = torch.tensor([1.0, 1.0, 2.0, 0.5])
    by_hand = {
        "reverse": weights.mean() ** 2 / weights.square().mean(),
        "forward": 1 / (weights.mean() * (1 / weights).mean()),
    }
    for direction, expected in by_hand.items():
        for shift in (0.0, 500.0):
            found = effective_sample_size(weights.log().double() + shift, direction)  # type: ignore[arg-type]
            torch.testing.assert_close(found, expected.double(), rtol=1e-6, atol=0)
    # log p - log q of N(m, 1) and N(0, 1) is normal of variance m^2: E[w]^2 / E[w^2] = exp(-m^2)
    x = torch.randn(400_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert abs(float(effective_sample_size(0.5 * x - 0.125)) - math.exp(-0.25)) < 0.005
    assert float(effective_sample_size(torch.zeros(9))) == pytest.approx(1.0)
    assert float(effective_sample_size(torch.tensor([0.0, -torch.inf]), "forward")) == 0.0


def test_what_makes_no_flow_is_refused() -> None:
    for settings in (
        {"dim": 1},
        {"dim": 2.5},
        {"dim": 2, "couplings": 0},
        {"dim": 2, "width": 0},
        {"dim": 2, "hidden": 0},
    ):
        with pytest.raises(UsageError, match="must be a whole number"):
            CouplingFlow(**settings)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="count must be"):
        CouplingFlow(2).sample(0)
    for weights in (
        torch.zeros(0),
        torch.tensor([0.0, torch.nan]),
        torch.tensor([torch.inf]),
        torch.tensor([-torch.inf]),
    ):
        with pytest.raises(UsageError, match="log_weights must be"):
            effective_sample_size(weights)
    with pytest.raises(UsageError, match="direction must be one of"):
        effective_sample_size(torch.zeros(3), "both")  # type: ignore[arg-type]
