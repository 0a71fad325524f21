"""Path gradients (p054, arXiv 2403.15881) against closed forms of Gaussians and the two-pass estimators."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.generate import CouplingFlow
from binderclip.losses import forward_kl, reverse_kl

MEAN, DEVIATION = 0.7, 1.6


def energy(x: Tensor) -> Tensor:
    """N(MEAN, DEVIATION^2) in the first coordinate, N(0, 1) in the second, without constants."""
    return 0.5 * ((x[:, 0] - MEAN) / DEVIATION).square() + 0.5 * x[:, 1].square()


def wavy(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1) + (2 * x).sin().prod(1)


def affine(shift: float, log_scale: float) -> tuple[CouplingFlow, Tensor]:
    """x_0 = z_0 e^s + t, x_1 = z_1; and the parameter (t, s)."""
    flow = CouplingFlow(2, couplings=1, width=1, hidden=1).double()
    last = flow.couplings[0].network[-1]  # type: ignore[union-attr, index]
    with torch.no_grad():
        last.bias.copy_(torch.tensor([shift, log_scale], dtype=torch.float64))
    return flow, last.bias


def random_flow(dim: int) -> CouplingFlow:
    torch.manual_seed(0)
    flow = CouplingFlow(dim, 4, width=8).double()
    for p in flow.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return flow


def normal(dim: int, count: int = 64) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradient(loss: Tensor, *parameters: Tensor) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize("estimator", ["fast_path", "path", "reparam"])
def test_reverse_gradients_of_a_gaussian(estimator: Any) -> None:
    t, s = 0.3, -0.4
    flow, parameter = affine(t, s)
    z = normal(2)
    loss = reverse_kl(flow, energy, estimator, samples=z)
    x = z[:, 0] * math.exp(s) + t
    pull = (x - MEAN) / DEVIATION**2  # dS/dx
    if estimator == "reparam":
        expected = torch.stack([pull.mean(), (pull * z[:, 0] * math.exp(s)).mean() - 1])
    else:
        # d log q/dx = -(x - t) e^-2s = -z e^-s; dx/dt = 1, dx/ds = z e^s
        slope = pull - z[:, 0] * math.exp(-s)
        expected = torch.stack([slope.mean(), (slope * z[:, 0] * math.exp(s)).mean()])
    torch.testing.assert_close(gradient(loss, parameter), expected)
    value = (energy(torch.stack([x, z[:, 1]], 1)) - 0.5 * z.square().sum(1) - math.log(2 * math.pi) - s).mean()
    torch.testing.assert_close(loss.detach(), value)
    # On average both are the gradient of the closed form, (t - m) / d^2 and e^2s / d^2 - 1.
    many = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = gradient(reverse_kl(flow, energy, estimator, samples=many), parameter)
    closed = torch.tensor([(t - MEAN) / DEVIATION**2, math.exp(2 * s) / DEVIATION**2 - 1], dtype=torch.float64)
    torch.testing.assert_close(found, closed, rtol=0, atol=0.02)


@pytest.mark.parametrize("estimator", ["fast_path", "path", "ml"])
def test_forward_gradients_of_a_gaussian(estimator: Any) -> None:
    t, s = 0.3, -0.4
    flow, parameter = affine(t, s)
    x = normal(2) * torch.tensor([DEVIATION, 1.0]) + torch.tensor([MEAN, 0.0])
    z = (x[:, 0] - t) * math.exp(-s)
    loss = forward_kl(flow, x, energy, estimator)
    if estimator == "ml":  # -log q = z^2 / 2 + s
        expected = torch.stack([-(z * math.exp(-s)).mean(), 1 - z.square().mean()])
    else:
        # log p/q at x, taken along dx/dt = 1 and dx/ds = z e^s at fixed z: z e^-s is -d log q/dx
        slope = (x[:, 0] - MEAN) / DEVIATION**2 - z * math.exp(-s)
        expected = torch.stack([slope.mean(), (slope * z * math.exp(s)).mean()])
    torch.testing.assert_close(gradient(loss, parameter), expected)
    torch.testing.assert_close(loss.detach(), (-flow.log_prob(x) - energy(x)).mean().detach())


@pytest.mark.parametrize("dim", [2, 5])
def test_the_fast_path_is_the_path_of_two_passes(dim: int) -> None:
    flow, z = random_flow(dim), normal(dim)
    parameters = list(flow.parameters())
    for losses in (
        [reverse_kl(flow, wavy, how, samples=z) for how in ("fast_path", "path")],  # type: ignore[arg-type]
        [forward_kl(flow, z + 0.2, wavy, how) for how in ("fast_path", "path")],  # type: ignore[arg-type]
    ):
        torch.testing.assert_close(losses[0], losses[1])
        fast, slow = (gradient(loss, *parameters) for loss in losses)
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-11)


def test_what_the_path_leaves_out_is_the_score() -> None:
    flow, z = random_flow(3), normal(3)
    parameters = list(flow.parameters())
    plain, path = (gradient(reverse_kl(flow, wavy, how, samples=z), *parameters) for how in ("reparam", "fast_path"))  # type: ignore[arg-type]
    score = gradient(flow.log_prob(flow(z)[0].detach()).mean(), *parameters)
    torch.testing.assert_close(plain - path, score)
    assert score.norm() > 0.1


def test_at_the_optimum_the_path_is_zero_for_every_sample() -> None:
    flow, parameter = affine(MEAN, math.log(DEVIATION))
    for z in normal(2, 5):
        x = flow(z[None])[0].detach()
        for loss in (reverse_kl(flow, energy, samples=z[None]), forward_kl(flow, x, energy)):
            assert gradient(loss, parameter).abs().max() < 1e-12
        for loss in (reverse_kl(flow, energy, "reparam", samples=z[None]), forward_kl(flow, x, energy, "ml")):
            assert gradient(loss, parameter).abs().max() > 0.01


def test_draws_are_those_of_the_generator() -> None:
    flow = random_flow(2)
    z = torch.randn(256, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    found = reverse_kl(flow, wavy, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(found, reverse_kl(flow, wavy, samples=z))


def test_what_cannot_be_estimated_is_refused() -> None:
    flow = random_flow(2)
    with pytest.raises(UsageError, match="estimator must be one of"):
        reverse_kl(flow, energy, "ml")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="estimator must be one of"):
        forward_kl(flow, normal(2), energy, "reparam")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="needs the energy"):
        forward_kl(flow, normal(2))
    torch.testing.assert_close(forward_kl(flow, normal(2), None, "ml"), -flow.log_prob(normal(2)).mean())
    with pytest.raises(UsageError, match="one number a sample"):
        reverse_kl(flow, lambda x: energy(x).mean())
    for none in (0, normal(2)[:0]):
        with pytest.raises(UsageError, match="must be"):
            reverse_kl(flow, energy, samples=none)
