"""Do kinks change what gradient descent does: cycles, l1 penalties without zeros, and no edge of stability?"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Lasso
from torch import nn
from torch.nn import functional as F

from binderclip.landscape import L1Curve, NonsmoothReport, SharpnessTrace, descent_sharpness, l1_curve, nonsmooth_study
from binderclip.studies.harness import Figure, Row, Table, declared_study

LR, SAMPLES, DIMENSIONS, STEPS = 1e-3, 50, 100, 20_000
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
NET_LR, NET_STEPS, NET_SAMPLES, EVERY = 0.1, 3000, 200, 100
CYCLE, FLIPS = "mean |x| over half the step, distance from 1", "part of the steps that change the sign"
NORM, ZEROS, PREDICTED = "l1 norm", "part of the coefficients that is 0", "l1 norm over the cycle's, distance from 1"
EXACT = "distance of the l1 norm from Lasso's"
EDGE = "step times the sharpness visited"
SIGN, PROXIMAL, LASSO = "descent by sign(b)", "proximal descent", "scikit-learn's Lasso"
HUBER, NET = "smoothed kink", "network"


def solved(seed: int) -> L1Curve:
    """The regression of `nonsmooth_study` for small strengths, by proximal steps long enough to converge."""
    x, y = regression(seed)
    return l1_curve(x, y, STRENGTHS, method="proximal", lr=0.1, steps=4000)


def regression(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and answers as `nonsmooth_study` draws them."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(SAMPLES, DIMENSIONS, generator=g, dtype=torch.float64)
    return x, x[:, :5].sum(1) + 0.1 * torch.randn(SAMPLES, generator=g, dtype=torch.float64)


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
    made = nonsmooth_study(lr=LR, strengths=STRENGTHS, samples=SAMPLES, dimensions=DIMENSIONS, steps=STEPS, seed=seed)
    return NonsmoothReport(made.cycle, made.subgradient, made.proximal, made.huber, network_trace(seed))


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    made, exact = report(seed), solved(seed)
    assert made.net is not None
    rows = [
        Row(CYCLE, SIGN, abs(float(made.cycle.mean_size.mean()) / (made.cycle.lr / 2) - 1)),
        Row(FLIPS, SIGN, float(made.cycle.flips.mean())),
        Row(EDGE, HUBER, made.huber_edge),
        Row(EDGE, NET, made.net.lr * float(made.net.sharpness[-len(made.net.sharpness) // 3 :].mean())),
    ]
    x, y = (part.numpy() for part in regression(seed))
    for place, strength in enumerate(STRENGTHS):
        lasso = Lasso(alpha=strength, fit_intercept=False, max_iter=100_000, tol=1e-8).fit(x, y).coef_
        for name, norm, zeros in (
            (SIGN, made.subgradient.norms[place], made.subgradient.zeros[place]),
            (PROXIMAL, exact.norms[place], exact.zeros[place]),
            (LASSO, np.abs(lasso).sum(), (lasso == 0).mean()),
        ):
            rows += [Row(NORM, name, float(norm), f"{strength:g}"), Row(ZEROS, name, float(zeros), f"{strength:g}")]
        ratio = float(made.subgradient.norms[place] / made.subgradient.predicted[place])
        rows.append(Row(PREDICTED, SIGN, abs(ratio - 1), f"{strength:g}"))
        rows.append(Row(EXACT, PROXIMAL, abs(float(exact.norms[place]) - float(np.abs(lasso).sum())), f"{strength:g}"))
    return rows


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
    assert made.net is not None
    right.plot(made.net.steps, made.net.lr * made.net.sharpness, label=NET)
    visited = made.huber.lr * made.huber.curvature.mean(1)
    right.plot(np.linspace(0, NET_STEPS, len(visited)), visited, label=HUBER)
    right.axhline(2, color="0.5", linestyle=":")
    right.set(xlabel="step (network)", title=EDGE)
    right.legend()


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="e7ebaebfa24c")
