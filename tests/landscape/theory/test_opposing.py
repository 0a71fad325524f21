"""p099: the toy against autograd on a sample and its own recursion; groups against a network whose answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from binderclip.errors import DataError, UsageError
from binderclip.landscape import TwoFeatureToy, opposing_signals


def test_the_loss_is_that_of_many_examples() -> None:
    toy = TwoFeatureToy(alpha=6.0, seed=1)
    inputs, targets = toy.sample(400_000, p=0.2)
    losses = []
    for scale in (0.0, 0.5, 1.2):
        c, b = torch.tensor(scale, dtype=torch.float64), 3 * toy.b + 0.1
        error = 0.5 * (c * (inputs @ b) - targets).square().mean()
        losses.append((float(error), float(toy.loss(c, b))))
    constants = [sample - population for sample, population in losses]
    # the constant is half the mean square of |1 . x_o| / 2, of which no linear model tells anything
    assert constants == pytest.approx([0.5 * 0.25 * 10 * 6.0] * 3, rel=0.02)


def test_descent_is_that_of_autograd() -> None:
    toy = TwoFeatureToy(alpha=10.0, seed=2, start=0.3)
    path = toy.descend(0.25, 60)
    c, b = toy.c.clone().requires_grad_(), toy.b.clone().requires_grad_()
    for step in range(61):
        loss = toy.loss(c, b)
        assert float(path.loss[step]) == pytest.approx(float(loss.detach()), rel=1e-9)
        assert float(path.sharpness[step]) == pytest.approx(10 * float(c.detach()) ** 2, rel=1e-9)
        grads = torch.autograd.grad(loss, (c, b))
        with torch.no_grad():
            c -= 0.25 * grads[0]
            b -= 0.25 * grads[1]


def test_the_balance_follows_its_recursion_and_the_curvature_is_the_hessians() -> None:
    toy = TwoFeatureToy(seed=0)
    path = toy.descend(0.3, 300)
    factors = 1 - 0.3 * path.sharpness[:-1]
    assert torch.allclose(path.balance[1:], path.balance[:-1] * factors, atol=1e-12)
    direction = torch.zeros(30, dtype=torch.float64)
    direction[20:] = 1 / math.sqrt(10)
    c = torch.tensor(0.7, dtype=torch.float64)
    hessian: Any = torch.autograd.functional.hessian(lambda b: toy.loss(c, b), toy.b)
    assert float(direction @ hessian @ direction) == pytest.approx(10 * 0.7**2)


def test_small_steps_are_calm_and_large_ones_spike_and_widen_the_valley() -> None:
    for lr, spikes in ((0.05, False), (0.15, False), (0.3, True), (0.35, True)):
        path = TwoFeatureToy().descend(lr)
        settled = int((path.loss < 0.05).nonzero()[0])
        assert (float(path.loss[settled:].max()) > 0.05) == spikes
        assert (float(path.sharpness[-1]) < 9.9) == spikes
        assert float(path.loss[-1]) < 1e-3
        if spikes:
            assert float(path.sharpness.max()) > 2 / lr > float(path.sharpness[-1])


class Scripted(nn.Module):
    """A linear model whose training is a script: weight on the opposing feature by step."""

    def __init__(self, weights: list[float]) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1, bias=False)
        self.weights, self.now = weights, 0
        self.set()

    def set(self) -> None:
        with torch.no_grad():
            self.linear.weight.copy_(torch.tensor([[1.0, self.weights[self.now]]]))

    def advance(self) -> None:
        self.now += 1
        self.set()

    def forward(self, inputs: Tensor) -> Tensor:
        return self.linear(inputs)[:, 0]


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square()


def scripted_data() -> tuple[Tensor, Tensor]:
    """Thirty quiet examples; five each with the same large feature and targets of opposite sign."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.cat([torch.randn(40, 1, generator=generator), torch.zeros(40, 1)], 1)
    targets = inputs[:, 0] + 0.01 * torch.randn(40, generator=generator)
    inputs[30:, 1] = 5.0
    targets[30:35] += 3.0
    targets[35:] -= 3.0
    return inputs, targets


def test_groups_that_pull_on_one_feature_are_found() -> None:
    inputs, targets = scripted_data()
    model = Scripted([0.0, 0.01, 0.05, -0.1, 0.12, -0.12, 0.13, -0.13])
    signals = opposing_signals(model, inputs, targets, model.advance, k=5, steps=3, loss=squared)
    assert {*signals.rising.tolist()} | {*signals.falling.tolist()} == set(range(30, 40))
    assert signals.step == 2  # from 0.05 to -0.1
    assert set(signals.rising.tolist()) == set(range(30, 35))  # a negative weight hurts those above
    assert signals.cosine == pytest.approx(-1, abs=1e-2)
    assert signals.within > 0.9
    assert signals.correlation == pytest.approx(-1, abs=1e-2)
    assert signals.losses.shape == (7, 40)
    change = signals.losses[1:].mean(1) - signals.losses[:-1].mean(1)
    assert torch.allclose(signals.losses.diff(dim=0).sum(1) / 40, change, atol=1e-6)


def test_gradients_and_cosines_are_those_of_the_closed_form() -> None:
    inputs, targets = scripted_data()
    model = Scripted([0.0, 0.02, 0.0, 0.07, 0.1, -0.1])
    signals = opposing_signals(model, inputs, targets, model.advance, k=4, steps=2, loss=squared)
    weight = np.array([1.0, 0.07])  # one step after both of the first window
    X, y = inputs.numpy(), targets.numpy()
    each = 2 * (X @ weight - y)[:, None] * X  # (N, 2)
    up, down = each[signals.rising.numpy()], each[signals.falling.numpy()]
    cosine = up.sum(0) @ down.sum(0) / np.linalg.norm(up.sum(0)) / np.linalg.norm(down.sum(0))
    assert signals.cosine == pytest.approx(cosine, abs=1e-5)

    def alike(group: np.ndarray) -> float:
        unit = group / np.linalg.norm(group, axis=1, keepdims=True)
        return float(np.mean([unit[i] @ unit[j] for i in range(4) for j in range(4) if i != j]))

    assert signals.within == pytest.approx(min(alike(up), alike(down)), abs=1e-5)


def test_unrelated_noise_has_nothing_in_common() -> None:
    """Mislabelled examples have the largest losses, and no common feature."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(60, 200, generator=generator)
    targets = torch.randint(0, 2, (60,), generator=generator)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(200, 2))
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def advance() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    signals = opposing_signals(model, inputs, targets, advance, k=10, steps=3)
    assert signals.within < 0.3
    assert model.training  # left in its mode


def test_what_cannot_be_measured_is_refused() -> None:
    inputs, targets = scripted_data()
    model = Scripted([0.0] * 9)
    with pytest.raises(UsageError, match="k must"):
        opposing_signals(model, inputs, targets, model.advance, k=21, steps=2, loss=squared)
    with pytest.raises(UsageError, match="steps must"):
        opposing_signals(model, inputs, targets, model.advance, k=5, steps=1, loss=squared)
    with pytest.raises(UsageError, match="one number an example"):
        opposing_signals(model, inputs, targets, model.advance, k=5, steps=2, loss=lambda o, t: squared(o, t).mean())
    with pytest.raises(DataError, match="not finite"):
        opposing_signals(model, inputs / 0, targets, model.advance, k=5, steps=2, loss=squared)
    with pytest.raises(UsageError, match="alpha"):
        TwoFeatureToy(alpha=float("nan"))
    with pytest.raises(UsageError, match="lr"):
        TwoFeatureToy().descend(0.0)
    with pytest.raises(UsageError, match="p must"):
        TwoFeatureToy().sample(3, p=0.0)
