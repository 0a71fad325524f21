"""Do kinks change what gradient descent does: cycles, l1 penalties without zeros, and no edge of stability?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Lasso
from torch import nn
from torch.nn import functional as F

from binderclip.landscape import NonsmoothReport, SharpnessTrace, descent_sharpness, nonsmooth_study
from binderclip.studies.harness import Figure, Row, Table, declared_study

LR, SAMPLES, DIMENSIONS, STEPS, PROXIMAL_LR, PROXIMAL_STEPS = 1e-3, 50, 100, 20_000, 0.1, 4000
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
NET_LR, NET_STEPS, NET_SAMPLES, EVERY = 0.1, 3000, 200, 100
CYCLE, FLIPS = "mean |x| over half the step, distance from 1", "part of the steps that change the sign"
NORM, ZEROS, PREDICTED = "l1 norm", "part of the coefficients that is 0", "l1 norm over the cycle's, distance from 1"
EXACT, EDGE = "largest distance of a coefficient from Lasso's", "step times the sharpness visited"
SIGN, PROXIMAL, LASSO = "descent by sign(b)", "proximal descent", "scikit-learn's Lasso"
HUBER, NET = "smoothed kink", "network"


def regression(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and answers as `nonsmooth_study` draws them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, DIMENSIONS, generator=g, dtype=torch.float64)
    return x.numpy(), (x[:, :5].sum(1) + 0.1 * torch.randn(SAMPLES, generator=g, dtype=torch.float64)).numpy()


def network_trace(seed: int) -> SharpnessTrace:
    """Full-batch gradient descent of a tanh network on digits by squared error, with its sharpness."""
    digits = load_digits()
    rows = np.random.default_rng(seed).permutation(len(digits.target))[:NET_SAMPLES]
    x = torch.tensor(digits.data[rows] / 16, dtype=torch.float32)
    y = F.one_hot(torch.tensor(digits.target[rows]).long(), 10).float()
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))
    loss = lambda: (net(x) - y).square().sum(1).mean() / 2  # noqa: E731
    return descent_sharpness(loss, list(net.parameters()), lr=NET_LR, steps=NET_STEPS, every=EVERY)


@cache
def report(seed: int) -> NonsmoothReport:
    """The three experiments of a seed."""
    sizes = {"samples": SAMPLES, "dimensions": DIMENSIONS, "steps": STEPS, "proximal_steps": PROXIMAL_STEPS}
    made = nonsmooth_study(lr=LR, strengths=STRENGTHS, proximal_lr=PROXIMAL_LR, seed=seed, **sizes)
    return replace(made, net=network_trace(seed))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    made = report(seed)
    assert made.net is not None
    rows = [
        Row(CYCLE, SIGN, abs(float(made.cycle.mean_size.mean()) / (made.cycle.lr / 2) - 1)),
        Row(FLIPS, SIGN, float(made.cycle.flips.mean())),
        Row(EDGE, HUBER, made.huber_edge),
        Row(EDGE, NET, made.net.lr * float(made.net.sharpness[-len(made.net.sharpness) // 3 :].mean())),
    ]
    x, y = regression(seed)
    for place, strength in enumerate(STRENGTHS):
        lasso = Lasso(alpha=strength, fit_intercept=False, max_iter=100_000, tol=1e-8).fit(x, y).coef_
        for name, norm, zeros in (
            (SIGN, made.subgradient.norms[place], made.subgradient.zeros[place]),
            (PROXIMAL, made.proximal.norms[place], made.proximal.zeros[place]),
            (LASSO, np.abs(lasso).sum(), (lasso == 0).mean()),
        ):
            rows += [Row(NORM, name, float(norm), f"{strength:g}"), Row(ZEROS, name, float(zeros), f"{strength:g}")]
        ratio = float(made.subgradient.norms[place] / made.subgradient.predicted[place])
        distance = float(np.abs(made.proximal.coefficients[place].numpy() - lasso).max())
        rows += [Row(PREDICTED, SIGN, abs(ratio - 1), f"{strength:g}"), Row(EXACT, PROXIMAL, distance, f"{strength:g}")]
    return rows


def _most(metric: str, method: str, bound: float, *settings: str) -> Callable[[Table], tuple[bool, str]]:
    """Whether the largest value of all seeds and settings is below a bound."""

    def judged(table: Table) -> tuple[bool, str]:
        largest = max(table.values(metric, method, setting).max() for setting in settings or ("",))
        return bool(largest < bound), f"at most {largest:.2g}"

    return judged


def random_numbers(seed: int) -> list[Row]:
    """The null: uniform numbers in the place of all that is measured."""
    draw = np.random.default_rng([seed, 104]).uniform
    pairs = {CYCLE: (SIGN,), EDGE: (HUBER, NET), NORM: (SIGN,), PREDICTED: (SIGN,), ZEROS: (SIGN, PROXIMAL)}
    settings = ("", *(f"{strength:g}" for strength in STRENGTHS))
    return [Row(name, method, draw(), s) for name, methods in pairs.items() for method in methods for s in settings]


def draw(table: Table, figure: Figure) -> None:
    """The norm over the penalty's strength, and the sharpness along descent."""
    left, right = figure.subplots(1, 2)
    for number, name in enumerate((SIGN, PROXIMAL)):
        values = [table.values(NORM, name, f"{strength:g}").mean() for strength in STRENGTHS]
        left.plot(STRENGTHS, np.maximum(values, 1e-3), "o-", color=f"C{number}", label=name)
    left.plot(STRENGTHS, DIMENSIONS * LR * np.array(STRENGTHS) / 2, ":", color="0.5", label="cycles in all coordinates")
    left.set(xscale="log", yscale="log", xlabel="strength of the penalty", title="l1 norm (0.001: zero)")
    left.legend()
    made = report(STUDY.seeds[0])
    if made.net is not None:
        right.plot(made.net.steps, made.net.lr * made.net.sharpness, label=NET)
    visited = made.huber.lr * made.huber.curvature.mean(1)
    right.plot(np.linspace(0, NET_STEPS, len(visited)), visited, label=HUBER)
    right.axhline(2, color="0.5", linestyle=":")
    right.set(xlabel="step (network)", title=EDGE)
    right.legend()


STUDY = declared_study(
    __name__, measure, null=random_numbers, draw=draw, seeds=range(20, 28), registered="4901616340a5"
)
