"""Do running medians of the gradient converge where running means do not?"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn

from binderclip.optim import MedianMomentum, SampleMedianSGD
from binderclip.studies.harness import Estimate, Figure, Row, Table, declared_study

DIMENSION, STEPS, RATE, TAIL = 20, 5000, 0.01, 1.2
SEEDS = tuple(range(100, 200))
# heavy-ball momentum is the rule for the mean with beta = 1 / (1 + tau)
ESTIMATORS: dict[str, Callable[[list[Tensor]], MedianMomentum]] = {
    "momentum 0.9": lambda p: MedianMomentum(p, RATE, "mean", tau=1 / 0.9 - 1),
    "l2": lambda p: MedianMomentum(p, RATE, "l2", tau=0.3),
    "l1": lambda p: MedianMomentum(p, RATE, "l1", tau=0.3),
    "huber": lambda p: MedianMomentum(p, RATE, "huber", tau=0.2, mu=0.5),
}
CLIPPED = "momentum 0.9 of gradients clipped to norm 1"
METHODS = (*ESTIMATORS, CLIPPED)
SAMPLES, WILD, BATCH_STEPS, BATCH_RATE = 20, 2, 200, 0.02
LENGTH, ACTIVE = "distance from the minimum", "share of steps with an active bound"
FIRST = "norm of the first gradient, where the estimate starts"
ACROSS = "distance from the minimum, 10 % of the samples times -50"


def student(seed: int) -> np.ndarray:
    """The noise of one run, (steps, dimension)."""
    return np.random.default_rng([seed, 16]).standard_t(TAIL, size=(STEPS, DIMENSION))


def first_norm(seed: int) -> float:
    """||g_0||; tau bounds how fast an estimate can leave it."""
    spread = 0.5 * (1 + DIMENSION**0.5) / DIMENSION**0.5
    return float(np.linalg.norm(1 + spread * student(seed)[0]))


@lru_cache(maxsize=32)
def descend(method: str, seeds: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Runs of all seeds side by side, one tensor each: final distances, shares of active bounds, paths.

    The estimators measure each tensor by itself, so the runs know nothing of each other.
    """
    noise = torch.from_numpy(np.stack([student(seed) for seed in seeds], axis=1))
    params = [nn.Parameter(torch.ones(DIMENSION, dtype=torch.float64)) for _ in seeds]
    clipped = method == CLIPPED
    optimizer = ESTIMATORS["momentum 0.9" if clipped else method](list(params))
    path = []
    for step in range(STEPS):
        weights = torch.stack([param.detach() for param in params])
        lengths = weights.norm(dim=1, keepdim=True)
        grads = weights + 0.5 * (1 + lengths) / DIMENSION**0.5 * noise[step]
        if clipped:
            grads = grads / grads.norm(dim=1, keepdim=True).clamp(min=1)
        for param, grad in zip(params, grads.unbind(), strict=True):
            param.grad = grad
        optimizer.step()
        if step % 50 == 0:
            path.append(lengths[:, 0].numpy())
    ends = torch.stack([param.detach() for param in params]).norm(dim=1).numpy()
    states = [optimizer.state[param] for param in params]
    return ends, np.array([float(s["active"] / s["step"]) for s in states]), np.array(path)


def across_samples(estimator: str, seed: int) -> float:
    """Final distance of SGD along a centre of the batch's gradients, two of twenty of them times -50."""
    generator = torch.Generator().manual_seed(seed)
    param = nn.Parameter(torch.ones(DIMENSION, dtype=torch.float64))
    optimizer = SampleMedianSGD([param], BATCH_RATE, estimator)  # type: ignore[arg-type]
    for _ in range(BATCH_STEPS):
        weight = param.detach()
        spread = 0.5 * (1 + weight.norm()) / DIMENSION**0.5
        samples = weight + spread * torch.randn(SAMPLES, DIMENSION, generator=generator, dtype=torch.float64)
        samples[:WILD] *= -50
        optimizer.collect([samples])
        optimizer.step()
    return float(param.detach().norm())


def measure(seed: int) -> list[Row]:
    """Final distances of one seed."""
    seeds = SEEDS if seed in SEEDS else (seed,)
    rows = []
    for method in METHODS:
        ends, active, _ = descend(method, seeds)
        rows.append(Row(LENGTH, method, float(ends[seeds.index(seed)])))
        if method != CLIPPED:
            rows.append(Row(ACTIVE, method, float(active[seeds.index(seed)])))
    rows.append(Row(FIRST, "all", first_norm(seed)))
    return rows + [Row(ACROSS, name, across_samples(name, seed)) for name in ("mean", "l2", "l1")]


def _tail(method: str, other: str) -> Callable[[Table], Estimate]:
    """Logarithm of the other's 90 % quantile over the method's, by the bootstrap over seeds."""

    def estimate(table: Table) -> Estimate:
        ours, theirs = (table.values(LENGTH, name) for name in (method, other))
        drawn = np.random.default_rng(0).integers(0, len(ours), (10_000, len(ours)))
        found = np.log(np.quantile(theirs[drawn], 0.9, axis=1) / np.quantile(ours[drawn], 0.9, axis=1))
        low, high = np.quantile(found, [0.025, 0.975])
        effect = float(np.log(np.quantile(theirs, 0.9) / np.quantile(ours, 0.9)))
        return Estimate(effect, float(low), float(high), len(ours), "paired bootstrap over seeds")

    return estimate


def draw(table: Table, figure: Figure) -> None:
    """Paths of the median run and of the 90 % quantile, and the comparison across samples."""
    left, middle, right = figure.subplots(1, 3)
    for number, method in enumerate(METHODS):
        path = descend(method, SEEDS)[2]
        steps = 50 * np.arange(len(path))
        left.plot(steps, np.median(path, axis=1), label=method, color=f"C{number}", lw=1)
        left.fill_between(
            steps, np.median(path, axis=1), np.quantile(path, 0.9, axis=1), alpha=0.15, color=f"C{number}", lw=0
        )
    left.set(yscale="log", xlabel="step", ylabel="||w||", title="Median and 90 % quantile")
    left.legend(fontsize=8)
    names = list(METHODS)
    middle.boxplot([table.values(LENGTH, name) for name in names])
    middle.set_xticks(range(1, len(names) + 1), [*ESTIMATORS, "clipped\nmomentum"], fontsize=7)
    middle.set(yscale="log", ylabel="||w|| at the end", title=f"{len(SEEDS)} runs")
    across = ["mean", "l2", "l1"]
    right.boxplot([table.values(ACROSS, name) for name in across])
    right.set_xticks([1, 2, 3], ["mean", "geometric\nmedian", "coordinate\nmedian"], fontsize=8)
    right.set(yscale="log", ylabel="||w|| at the end", title="Across samples, 10 % wild")


STUDY = declared_study(__name__, measure, draw=draw, seeds=SEEDS, null=None, registered="b1f0dcc27b26")
