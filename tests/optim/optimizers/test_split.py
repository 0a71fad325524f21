"""SplitSGD (p099, arXiv 2311.04163) against torch's SGD, descent by the sign and a loop over coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.optim import SplitSGD


def run(make: Callable[[list[nn.Parameter]], Any], steps: int = 6) -> tuple[Tensor, list[Tensor], Any]:
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(4, 5, generator=generator, dtype=torch.float64))
    optimizer = make([weight])
    gradients = []
    for _ in range(steps):
        weight.grad = torch.randn(4, 5, generator=generator, dtype=torch.float64).exp() * torch.randn(
            4, 5, generator=generator, dtype=torch.float64
        )
        gradients.append(weight.grad.clone())
        optimizer.step()
    return weight.detach(), gradients, optimizer


def test_with_everything_below_the_quantile_it_is_momentum_sgd() -> None:
    ours, _, optimizer = run(lambda p: SplitSGD(p, 0.1, 1.0, weight_decay=0.01))
    theirs, _, _ = run(lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, dampening=0.9, weight_decay=0.01))
    assert torch.allclose(ours, theirs, atol=1e-14)
    assert optimizer.active_fraction() == 0


def test_with_everything_above_it_is_descent_by_the_sign() -> None:
    ours, gradients, optimizer = run(lambda p: SplitSGD(p, 0.1, 0.0, sign_lr=0.03))
    start, _, _ = run(lambda p: torch.optim.SGD(p, 0.0))
    assert torch.allclose(ours, start - 0.03 * sum(g.sign() for g in gradients), atol=1e-14)
    assert optimizer.active_fraction() == 1


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9, 0.95])
def test_each_coordinate_moves_by_its_own_rule(quantile: float) -> None:
    ours, gradients, _ = run(lambda p: SplitSGD(p, 0.1, quantile, momentum=0.8, dampening=0.4))
    start, _, _ = run(lambda p: torch.optim.SGD(p, 0.0))
    twin = start.flatten().tolist()
    memory: list[float] = []
    for gradient in gradients:
        values = gradient.flatten().tolist()
        memory = [0.8 * m + 0.6 * g for m, g in zip(memory, values, strict=True)] if memory else list(values)
        threshold = sorted(map(abs, values))[math.ceil(quantile * len(values)) - 1]
        for i, g in enumerate(values):
            twin[i] -= math.copysign(0.1 * threshold, g) if abs(g) > threshold else 0.1 * memory[i]
    assert torch.allclose(ours.flatten(), torch.tensor(twin, dtype=torch.float64), atol=1e-6)


def test_an_outlier_cannot_move_a_coordinate_further_than_the_border() -> None:
    weight = nn.Parameter(torch.zeros(10))
    optimizer = SplitSGD([weight], 0.1)
    weight.grad = torch.cat([torch.ones(9), torch.tensor([1e9])])
    optimizer.step()
    assert torch.equal(weight.detach(), torch.full((10,), -0.1))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"quantile": 1.1}, "quantile"),
        ({"quantile": float("nan")}, "quantile"),
        ({"quantile": 0}, "give sign_lr"),
        ({"sign_lr": -1.0}, "sign_lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"dampening": 1.5}, "dampening"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        SplitSGD([nn.Parameter(torch.zeros(2))], **settings)
