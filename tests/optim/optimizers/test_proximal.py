"""Proximal steps and l1 penalties (p104; arXiv 2401.08426) against scikit-learn's Lasso and plain gradient descent."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn

from binderclip.errors import UsageError
from binderclip.fit import fit
from binderclip.losses import l1_penalty
from binderclip.optim import ProximalSGD, soft_threshold


def regression() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(40, 20, generator=g, dtype=torch.float64)
    return x, x[:, :3].sum(1) + 0.1 * torch.randn(40, generator=g, dtype=torch.float64)


def squares(x: torch.Tensor, y: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x @ w - y).square().mean() / 2


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_it_finds_the_solution_of_lasso_and_its_zeros(momentum):
    x, y = regression()
    w = nn.Parameter(torch.full((20,), 0.01, dtype=torch.float64))
    optimizer = ProximalSGD([w], lr=0.1 if momentum == 0 else 0.02, l1=0.1, momentum=momentum)
    fit(lambda _: squares(x, y, w), [w], [0], steps=700, optimizer=optimizer, schedule="constant")
    exact = Lasso(alpha=0.1, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x.numpy(), y.numpy()).coef_
    np.testing.assert_allclose(w.detach().numpy(), exact, atol=1e-6)
    assert ((w.detach().numpy() == 0) == (exact == 0)).all()
    assert (exact == 0).sum() > 10


def test_the_subgradient_leaves_no_zeros_where_proximal_steps_leave_nothing_else():
    x, y = regression()
    strength = 1.1 * float((x.T @ y / len(x)).abs().max())  # above it the solution is 0
    found = {}
    for method in ("subgradient", "proximal"):
        w = nn.Parameter(torch.full((20,), 0.01, dtype=torch.float64))
        kind = ProximalSGD([w], lr=0.01, l1=strength) if method == "proximal" else torch.optim.SGD([w], lr=0.01)
        loss = lambda _, w=w, method=method: squares(x, y, w) + l1_penalty([w], strength, method=method)  # noqa: E731
        fit(loss, [w], [0], steps=400, optimizer=kind, schedule="constant")
        found[method] = w.detach()
    assert float(found["proximal"].abs().max()) == 0
    assert not bool((found["subgradient"] == 0).any())


def test_without_a_penalty_it_is_sgd():
    x, y = regression()
    nets = [nn.Linear(20, 1).double() for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    one = ProximalSGD(nets[0].parameters(), lr=0.05, momentum=0.9)
    other = torch.optim.SGD(nets[1].parameters(), lr=0.05, momentum=0.9)
    for net, optimizer in zip(nets, (one, other), strict=True):
        for _ in range(5):
            optimizer.zero_grad()
            (net(x)[:, 0] - y).square().mean().backward()
            optimizer.step()
    for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_group_has_its_own_penalty_and_resting_weights_stay():
    w, bias, resting = (nn.Parameter(torch.ones(2)) for _ in range(3))
    optimizer = ProximalSGD([{"params": [w, resting]}, {"params": [bias], "l1": 0.0}], lr=0.5, l1=1.0)
    ((w + bias) * 0).sum().backward()
    optimizer.step()
    assert w.tolist() == [0.5, 0.5]
    assert bias.tolist() == [1.0, 1.0]
    assert resting.tolist() == [1.0, 1.0]


def test_soft_thresholding_minimises_its_objective():
    v = torch.linspace(-2, 2, 9, dtype=torch.float64)
    grid = torch.linspace(-3, 3, 60_001, dtype=torch.float64)
    best = torch.stack([grid[(0.5 * (grid - x).square() + 0.7 * grid.abs()).argmin()] for x in v])
    torch.testing.assert_close(soft_threshold(v, 0.7), best, rtol=0, atol=1e-4)


def test_the_three_penalties_differ_in_their_gradients():
    w = nn.Parameter(torch.tensor([0.5, -0.25, 0.0]))
    (plain,) = torch.autograd.grad(l1_penalty([w], 2.0), [w])
    assert plain.tolist() == [2.0, -2.0, 0.0]
    assert float(l1_penalty([w], 2.0).detach()) == 1.5
    assert not l1_penalty([w], 2.0, method="proximal").requires_grad
    smooth = l1_penalty([w], 2.0, method="huber", delta=0.5)
    expected = 2.0 * torch.nn.functional.huber_loss(w, torch.zeros(3), delta=0.5, reduction="sum") / 0.5
    torch.testing.assert_close(smooth, expected)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda w: ProximalSGD([w], lr=-1.0), "lr"),
        (lambda w: ProximalSGD([w], l1=float("nan")), "l1"),
        (lambda w: ProximalSGD([w], momentum=1.0), "momentum"),
        (lambda w: ProximalSGD([{"params": [w], "l1": -1.0}]), "l1"),
        (lambda w: l1_penalty([w], -1.0), "strength"),
        (lambda w: l1_penalty([w], 1.0, method="smooth"), "method"),
        (lambda w: l1_penalty([w], 1.0, delta=0.0), "delta"),
        (lambda w: l1_penalty([], 1.0), "at least one"),
    ],
)
def test_wrong_settings_are_named(make, word):
    with pytest.raises(UsageError, match=word):
        make(nn.Parameter(torch.ones(2)))
