"""LAMB against its formulas written out, AdamW, and timm's (p108)."""

from __future__ import annotations

import math

import pytest
import torch
from timm.optim import Lamb
from torch import nn

from binderclip.errors import UsageError
from binderclip.optim import LAMB

SHAPES = ((4, 3), (5,), (2, 1, 3))
B1, B2, EPS = 0.9, 0.95, 1e-6


def start() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator, dtype=torch.float64)) for shape in SHAPES]


def give(params: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for param in params:
        param.grad = torch.randn(param.shape, generator=generator, dtype=torch.float64)


def written_out(*, released: bool, steps: int, trust: tuple[float, float], decay: float) -> list[torch.Tensor]:
    """Entry by entry in plain numbers."""
    params = start()
    memory = [([0.0] * p.numel(), [0.0] * p.numel()) for p in params]
    for step in range(1, steps + 1):
        give(params, step)
        for param, (m, v) in zip(params, memory, strict=True):
            w, g = param.detach().flatten().tolist(), param.grad.flatten().tolist()
            c1, c2 = 1 - B1**step, 1 - B2**step
            for i, each in enumerate(g):
                m[i], v[i] = B1 * m[i] + (1 - B1) * each, B2 * v[i] + (1 - B2) * each * each
            if released:  # DeepSpeed's: the correction is a factor of the step
                u = [a / (math.sqrt(b) + EPS) + decay * x for a, b, x in zip(m, v, w, strict=True)]
                size = 0.1 * math.sqrt(c2) / c1
            else:
                u = [a / c1 / (math.sqrt(b / c2) + EPS) + decay * x for a, b, x in zip(m, v, w, strict=True)]
                size = 0.1
            ratio = math.sqrt(sum(x * x for x in w)) / math.sqrt(sum(x * x for x in u))
            ratio = min(max(ratio, trust[0]), trust[1])
            new = torch.tensor([x - size * ratio * y for x, y in zip(w, u, strict=True)], dtype=torch.float64)
            param.data = new.reshape(param.shape)
    return [param.detach() for param in params]


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("trust", [(0.01, 10.0), (0.01, 0.3), (2.0, 2.0)])
def test_steps_are_those_of_the_formulas(released: bool, trust: tuple[float, float]) -> None:
    params = start()
    settings = {"lr": 0.1, "betas": (B1, B2), "eps": EPS, "weight_decay": 0.2}
    optimizer = LAMB(params, **settings, trust=trust, released=released)
    for step in range(1, 7):
        give(params, step)
        optimizer.step()
    expected = written_out(released=released, steps=6, trust=trust, decay=0.2)
    for ours, theirs in zip(params, expected, strict=True):
        torch.testing.assert_close(ours.detach(), theirs, rtol=1e-9, atol=1e-10)
    assert (optimizer.active_fraction() > 0) == (trust != (0.01, 10.0))


def twins(optimizer: type, other: type, mine: dict, theirs: dict) -> None:
    params, others = start(), start()
    one, two = optimizer(params, **mine), other(others, **theirs)
    for step in range(1, 7):
        give(params, step)
        give(others, step)
        one.step()
        two.step()
    for a, b in zip(params, others, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_with_a_ratio_of_1_it_is_adamw() -> None:
    settings = {"lr": 0.05, "betas": (B1, B2), "eps": EPS, "weight_decay": 0.3}
    twins(LAMB, torch.optim.AdamW, {**settings, "trust": (1, 1)}, settings)


def test_without_bounds_it_is_timm_s() -> None:
    settings = {"lr": 0.05, "betas": (B1, B2), "eps": EPS, "weight_decay": 0.3}
    twins(LAMB, Lamb, {**settings, "trust": (1e-12, 1e12)}, {**settings, "max_grad_norm": None})


@pytest.mark.parametrize("released", [False, True])
def test_a_tensor_of_zeros_or_a_zero_update_has_a_ratio_of_1(released: bool) -> None:
    zero, still = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.ones(2))
    zero.grad, still.grad = torch.tensor([1.0, -1.0]), torch.zeros(2)
    LAMB([zero, still], lr=0.1, released=released).step()
    torch.testing.assert_close(zero.detach().abs(), torch.full((2,), 0.1), rtol=1e-2, atol=0)
    assert torch.equal(still, torch.ones(2))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"betas": (0.9,)}, "betas"), ({"betas": (0.9, 1.0)}, "betas"), ({"eps": -1.0}, "eps"),
     ({"trust": (0.0, 1.0)}, "trust"), ({"trust": (2.0, 1.0)}, "trust")],
)  # fmt: skip
def test_wrong_settings_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=f"{message} must be"):
        LAMB(start(), **settings)
