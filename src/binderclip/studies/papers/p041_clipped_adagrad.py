"""Does clipping keep AdaGrad's bad runs from being very bad under heavy-tailed noise?"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from binderclip.optim import ClippedAdaGrad
from binderclip.studies.harness import Figure, Row, Table, declared_study

RUNS, STEPS = 1000, 1000
START, CLIP, ROOT = 2.0, 0.5, 3.0
"""x_0, lambda and b_0."""
RATES = {"gamma = 1/16": 1 / 16, "gamma = 1": 1.0, "gamma = 4": 4.0}
METHODS = {"unclipped": (math.inf, 1.0), "clipped": (CLIP, 1.0), "clipped SGD": (CLIP, 0.0)}
"""lambda and eta; without growth of the accumulator AdaGrad is SGD with the step gamma / b_0."""
QUANTILES = {"median": 0.5, "90 % quantile": 0.9, "99 % quantile": 0.99, "worst": 1.0}
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999)


def noise(generator: torch.Generator) -> Tensor:
    """Symmetric, density proportional to (1 + |z|)^-2.5: the mean is finite, the variance is not."""
    size = (1 - torch.rand(RUNS, generator=generator, dtype=torch.float64)) ** (-1 / 1.5) - 1
    return torch.where(torch.rand(RUNS, generator=generator) < 0.5, size, -size)


def descend(rate: float, clip: float, eta: float, seed: int) -> tuple[np.ndarray, float]:
    """Losses at the end of all runs, and the share of runs whose b grew more than tenfold in one step.

    A run is one number, for which the norm form and the coordinate form are the same; so the runs are the entries of
    one tensor.
    """
    generator = torch.Generator().manual_seed(seed)
    x = nn.Parameter(torch.full((RUNS,), START, dtype=torch.float64))
    optimizer = ClippedAdaGrad([x], rate, clip=clip, eta=eta, granularity="coordinate", v0=ROOT**2, eps=0.0)
    jumped, before = torch.zeros(RUNS, dtype=torch.bool), torch.full((RUNS,), ROOT, dtype=torch.float64)
    for _ in range(STEPS):
        x.grad = x.detach() + noise(generator)
        optimizer.step()
        after = optimizer.state[x]["sum"].sqrt()
        jumped, before = jumped | (after > 10 * before), after
    return (x.detach().square() / 2).numpy(), float(jumped.float().mean())


def measure(seed: int) -> list[Row]:
    """Quantiles of the final loss over the runs, and how often the step size collapsed."""
    rows = []
    for setting, rate in RATES.items():
        for method, (clip, eta) in METHODS.items():
            losses, jumps = descend(rate, clip, eta, seed)
            rows += [
                Row(f"final loss, {name}", method, float(np.quantile(losses, level)), setting)
                for name, level in QUANTILES.items()
            ]
            rows.append(Row("share of runs whose b grew more than tenfold in one step", method, jumps, setting))
            if setting == "gamma = 1":
                rows += [
                    Row(f"loss exceeded by a share of {1 - level:.3g}", method, float(value), setting)
                    for level, value in zip(LEVELS, np.quantile(losses, LEVELS), strict=True)
                ]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """The tail of the loss at gamma = 1, and the quantiles at every gamma."""
    left, right = figure.subplots(1, 2)
    for number, method in enumerate(METHODS):
        tail = [table.mean(f"loss exceeded by a share of {1 - level:.3g}", method, "gamma = 1") for level in LEVELS]
        left.plot(tail, [1 - level for level in LEVELS], marker="o", markersize=3, label=method, color=f"C{number}")
    left.set(
        xscale="log", yscale="log", xlabel="final loss", ylabel="share of runs above it", title="The tail at gamma = 1"
    )
    left.legend()
    width = 0.8 / (2 * len(METHODS))
    for number, method in enumerate(METHODS):
        for place, (name, alpha) in enumerate((("median", 0.5), ("99 % quantile", 1.0))):
            values = [table.mean(f"final loss, {name}", method, setting) for setting in RATES]
            at = np.arange(len(RATES)) + (len(METHODS) * place + number - len(METHODS) + 0.5) * width
            right.bar(at, values, width, label=f"{method}, {name}", color=f"C{number}", alpha=alpha)
    right.set_xticks(range(len(RATES)), list(RATES))
    right.set(yscale="log", ylabel="final loss", title="Quantiles over 1,000 runs")
    right.legend(fontsize=8)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), registered="4a978bb6ac4f")
