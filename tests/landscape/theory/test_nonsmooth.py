"""Descent at kinks (p104; arXiv 2401.08426) against the closed-form cycle, Lasso and torch's optimizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn

from binderclip.errors import UsageError
from binderclip.landscape import descent_sharpness, kink_descent, l1_curve, nonsmooth_study

STARTS = 2 * torch.rand(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1


def test_at_a_kink_every_start_ends_in_the_two_cycle():
    found = kink_descent("abs", STARTS, lr=0.1, steps=200)
    a = torch.remainder(STARTS, 0.1)  # the point of the cycle above 0; the other is a - lr
    last = torch.stack([found.x[-1], found.x[-2]]).sort(0).values
    torch.testing.assert_close(last, torch.stack([a - 0.1, a]), rtol=0, atol=1e-12)
    torch.testing.assert_close(found.mean_size, torch.full((64,), 0.05).double())
    assert bool((found.flips == 1).all())


def test_autograd_and_sgd_give_the_same_trajectory():
    for function, loss in (
        ("abs", torch.abs),
        (
            "huber",
            lambda x: torch.nn.functional.huber_loss(x, torch.zeros_like(x), reduction="none", delta=0.02) / 0.02,
        ),
    ):
        x = nn.Parameter(STARTS.clone())
        optimizer = torch.optim.SGD([x], lr=0.1)
        found = kink_descent(function, STARTS, lr=0.1, steps=40, delta=0.02)
        for step in range(40):
            torch.testing.assert_close(found.x[step], x.detach(), rtol=0, atol=1e-9)
            optimizer.zero_grad()
            loss(x).sum().backward()
            optimizer.step()


def test_smooth_functions_converge_and_small_steps_do():
    assert float(kink_descent("square", STARTS, lr=0.5, steps=60).x[-1].abs().max()) < 1e-15
    assert float(kink_descent("huber", STARTS, lr=0.1, steps=400, delta=0.2).x[-1].abs().max()) < 1e-12
    long = kink_descent("abs", STARTS, lr=0.1, steps=10_000, decay=True)
    assert float(long.x[-1].abs().max()) <= 0.1 / 9_998**0.5


def test_beyond_the_stable_step_the_smoothed_kink_has_no_edge():
    found = kink_descent("huber", STARTS, lr=0.5, steps=400, delta=0.1)
    late = found.curvature[200:]
    assert float(found.x.abs().max()) <= 1.0  # bounded, though lr * 1 / delta = 5 > 2
    assert 0.5 * float(late.mean()) < 0.2
    square = kink_descent("square", STARTS, lr=2.5, steps=60)
    assert float(square.x[-1].abs().min()) > 1e3  # a quadratic diverges there


@pytest.fixture(scope="module")
def report():
    return nonsmooth_study(strengths=(1.0, 10.0, 100.0, 1000.0), steps=6000)


def data() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(4)
    x = torch.randn(30, 12, generator=g, dtype=torch.float64)
    return x, x[:, :2].sum(1) + 0.1 * torch.randn(30, generator=g, dtype=torch.float64)


def test_a_larger_penalty_leaves_a_larger_norm(report):
    paradox = report.subgradient
    assert (paradox.norms[1:].diff() > 0).all()
    np.testing.assert_allclose(paradox.norms[1:].numpy(), paradox.predicted[1:].numpy(), rtol=0.2)
    assert float(paradox.zeros.max()) == 0
    assert (report.proximal.norms.diff() <= 0).all()
    assert report.proximal.zeros[2:].tolist() == [1.0, 1.0]
    assert report.huber_edge < 0.2
    assert float(report.cycle.flips.min()) == 1


def test_proximal_steps_are_lasso():
    x, y = data()
    found = l1_curve(x, y, [0.05, 0.3], method="proximal", lr=0.2, steps=3000)
    for strength, coefficients in zip((0.05, 0.3), found.coefficients, strict=True):
        exact = Lasso(alpha=strength, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x.numpy(), y.numpy())
        np.testing.assert_allclose(coefficients.numpy(), exact.coef_, atol=1e-8)


def test_proximal_steps_of_their_own_length_bring_the_study_to_lasso():
    strengths = (0.01, 0.1)
    report = nonsmooth_study(
        strengths=strengths, samples=20, dimensions=8, steps=40, proximal_lr=0.2, proximal_steps=2000, seed=3
    )
    short = nonsmooth_study(strengths=strengths, samples=20, dimensions=8, steps=40, seed=3)
    g = torch.Generator().manual_seed(3)
    x = torch.randn(20, 8, generator=g, dtype=torch.float64)
    y = x[:, :5].sum(1) + 0.1 * torch.randn(20, generator=g, dtype=torch.float64)
    for place, strength in enumerate(strengths):
        exact = Lasso(alpha=strength, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(x.numpy(), y.numpy())
        np.testing.assert_allclose(report.proximal.coefficients[place].numpy(), exact.coef_, atol=1e-6)
        assert np.abs(short.proximal.coefficients[place].numpy() - exact.coef_).max() > 0.1
    torch.testing.assert_close(report.subgradient.norms, short.subgradient.norms, rtol=0, atol=0)


@pytest.mark.parametrize("method", ["sgd", "adam", "rmsprop"])
def test_all_strengths_at_once_are_each_alone_by_autograd(method):
    x, y = data()
    found = l1_curve(x, y, [0.1, 5.0], method=method, lr=0.01, steps=60)
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[method]
    for strength, coefficients in zip((0.1, 5.0), found.coefficients, strict=True):
        b = nn.Parameter(torch.full((12,), 0.01, dtype=torch.float64))
        optimizer = kind([b], lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            ((x @ b - y).square().mean() / 2 + strength * b.abs().sum()).backward()
            optimizer.step()
        torch.testing.assert_close(coefficients, b.detach(), rtol=1e-6, atol=1e-9)


def test_the_sharpness_on_a_quadratic_is_its_curvature():
    w = nn.Parameter(torch.tensor([1.0, 1.0], dtype=torch.float64))
    curvature = torch.tensor([3.0, 0.5], dtype=torch.float64)
    trace = descent_sharpness(lambda: 0.5 * (curvature * w * w).sum(), [w], lr=0.1, steps=20, every=10)
    assert trace.steps == (0, 10)
    torch.testing.assert_close(trace.sharpness, torch.tensor([3.0, 3.0]), rtol=1e-3, atol=0)
    torch.testing.assert_close(w.detach(), (1 - 0.1 * curvature) ** 20)
    with pytest.raises(UsageError, match="too large"):
        descent_sharpness(lambda: 0.5 * (curvature * w * w).sum(), [w], lr=1e30, steps=50, every=1)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: kink_descent("cube", STARTS, lr=0.1, steps=10), "function"),
        (lambda: kink_descent("abs", STARTS, lr=0.0, steps=10), "lr"),
        (lambda: kink_descent("abs", STARTS, lr=0.1, steps=3), "steps"),
        (lambda: l1_curve(*data(), [], steps=20), "strengths"),
        (lambda: l1_curve(*data(), [-1.0], steps=20), "strength"),
        (lambda: l1_curve(data()[0], data()[1][:5], [1.0], steps=20), "x "),
        (lambda: l1_curve(*data(), [1.0], method="newton"), "method"),
        (lambda: nonsmooth_study(dimensions=4), "dimensions"),
        (lambda: nonsmooth_study(steps=20, proximal_lr=0.0), "lr"),
        (lambda: nonsmooth_study(steps=20, proximal_steps=0), "steps"),
    ],
)
def test_wrong_settings_are_named(call, word):
    with pytest.raises(UsageError, match=word):
        call()
