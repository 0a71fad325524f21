"""Does a clip norm that is optimised during private federated training make its initial value matter less?"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from binderclip.privacy import (
    Controller,
    FederatedAverage,
    Ledger,
    MultiObjectiveClip,
    PrivateBatch,
    PublicStats,
    Setting,
    Statistic,
    noise_multiplier_for,
)
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.data.clothing import clothing

TRAIN, TEST, CLIENTS, ROUNDS, BATCH, DELTA, LR = 2_000, 2_000, 10, 20, 100, 1e-5, 0.1
EPSILONS = (2.0, 8.0)
FIXED = (0.1, 0.5, 1.0, 5.0, 10.0)
STARTS = (0.1, 1.0, 10.0)
BOUNDS, KAPPA, RATIO = (0.1, 10.0), 0.5, 10.0
PUBLISHED, OURS, QUANTILE = "as published", "joint scale, log step", "private quantile"
ADAPTIVE = (PUBLISHED, OURS, QUANTILE)
RATES = {PUBLISHED: 0.1, OURS: 1.0, QUANTILE: 2.0}
"""Of each move, the first in units of C0; the two others chosen of three on the pilot."""
ORDERS = (*(float(order) for order in range(2, 25)), 28.0, 32.0, 40.0, 48.0, 63.0)


@lru_cache(maxsize=1)
def fashion() -> dict[str, tuple[Tensor, Tensor]]:
    """Flat pictures in [0, 1] and labels of the training and test part."""
    parts = {split: clothing(split, count) for split, count in (("train", TRAIN), ("test", TEST))}
    return {split: (images.flatten(1), labels) for split, (images, labels) in parts.items()}


def shared_out(labels: Tensor, seed: int) -> list[Tensor]:
    """Rows of each client: every class is split by a Dirichlet(.5) draw; a client with under 20 rows is drawn anew."""
    rng = np.random.default_rng(seed)
    while True:
        parts: list[list[int]] = [[] for _ in range(CLIENTS)]
        for label in range(10):
            rows = rng.permutation(np.flatnonzero(labels.numpy() == label))
            cuts = (np.cumsum(rng.dirichlet([0.5] * CLIENTS))[:-1] * len(rows)).astype(int)
            for part, piece in zip(parts, np.split(rows, cuts), strict=True):
                part.extend(piece.tolist())
        if min(map(len, parts)) >= 20:
            return [torch.tensor(sorted(part)) for part in parts]


def losses(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """One a sample."""
    return cross_entropy(model(x), y, reduction="none")


@lru_cache(maxsize=64)
def _sigma(epsilon: float, sizes: tuple[int, ...]) -> float:
    """Noise with which the client who spends most stays within the budget."""
    needed = []
    for size in set(sizes):
        rate = min(1.0, BATCH / size)
        steps = ROUNDS * max(1, round(1 / rate))
        needed.append(noise_multiplier_for(epsilon, DELTA, rate, steps, spent=Ledger(orders=ORDERS)))
    return max(needed)


class PrivateQuantile(Controller):
    """Andrew et al.'s rule with one move a round: C <- C exp(-rate (b - 1/2)), b the noisy share that is not clipped.

    `privacy.AdaptiveClip` moves by steps, and each client's round starts from a copy of it.
    """

    def __init__(self, c0: float, rate: float) -> None:
        self.clip_norm, self.rate = c0, rate
        self.history, self._shares = [c0], list[float]()

    @property
    def inflation(self) -> float:
        """Noise multiplier of the gradient over that of the whole step, the count included."""
        return math.sqrt(1 + 1 / RATIO**2)

    def statistics(self, stats: PublicStats) -> tuple[Statistic, ...]:
        """The count, each sample as +1/2 or -1/2."""
        return (Statistic("unclipped", _unclipped, 0.5, RATIO * stats.noise_multiplier),)

    def before_step(self, stats: PublicStats) -> Setting:
        """Take in the last count and set C."""
        if "unclipped" in stats.released:
            self._shares.append(float(stats.released["unclipped"]) / stats.expected_batch_size + 0.5)
        return Setting(clip_norms=(self.clip_norm,))

    def end_round(self) -> None:
        """Move C."""
        moved = self.clip_norm * math.exp(-self.rate * (float(np.mean(self._shares)) - 0.5))
        self.clip_norm = min(max(moved, BOUNDS[0]), BOUNDS[1])
        self._shares = []
        self.history.append(self.clip_norm)


def _unclipped(batch: PrivateBatch) -> Tensor:
    return (batch.norms[:, 0] <= batch.clip_norms[0]).to(batch.norms.dtype).sub(0.5).sum()


def _controller(name: str, c0: float, rate: float) -> MultiObjectiveClip | PrivateQuantile:
    if name == QUANTILE:
        return PrivateQuantile(c0, rate)
    scales: Literal["initial", "joint"] = "joint" if name == OURS else "initial"
    step: Literal["linear", "log"] = "log" if name == OURS else "linear"
    rate = rate if name == OURS else rate * c0
    return MultiObjectiveClip(
        c0, rate, KAPPA, lr=LR, bounds=BOUNDS, statistics_ratio=RATIO, scales=scales, step=step
    )  # fmt: skip


def train(
    clip_norm: float, epsilon: float, seed: int, name: str | None = None, rate: float | None = None
) -> tuple[float, float, list[float]]:
    """Test accuracy, epsilon, and the clip norm after each round of one run.

    Args:
        clip_norm: kept, or what is started from.
        epsilon: the budget.
        seed: of split, first weights, sampling and noise.
        name: one of `ADAPTIVE`; None keeps the clip norm.
        rate: of its moves; default that of `RATES`.
    """
    x, y = fashion()["train"]
    parts = shared_out(y, seed)
    sigma = _sigma(epsilon, tuple(len(part) for part in parts))
    controller = None
    if name is not None:
        controller = _controller(name, clip_norm, RATES[name] if rate is None else rate)
        # The statistics cost a little; the gradient's own noise rises so that the step costs the same.
        sigma *= controller.inflation
    torch.manual_seed(seed)
    federated = FederatedAverage(
        nn.Linear(784, 10), losses, [(x[part], y[part]) for part in parts], rule=clip_norm, noise_multiplier=sigma,
        batch_size=BATCH, lr=LR, controller=controller, seed=seed,
    )  # fmt: skip
    federated.run(ROUNDS)
    tests, labels = fashion()["test"]
    with torch.no_grad():
        right = float((federated.model.eval()(tests).argmax(1) == labels).float().mean())
    spent = max(Ledger(ledger.entries, orders=ORDERS).epsilon(DELTA) for ledger in federated.ledgers)
    return right, spent, [] if controller is None else controller.history


def fixed(c: float) -> str:
    """Name of a run with a fixed clip norm."""
    return f"fixed, C = {c:g}"


def started(name: str, c: float) -> str:
    """Name of a run whose clip norm moves."""
    return f"{name}, C0 = {c:g}"


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    rows = []
    for epsilon in EPSILONS:
        runs: list[tuple[str, float, str | None]] = [(fixed(c), c, None) for c in FIXED]
        runs += [(started(name, c), c, name) for name in ADAPTIVE for c in STARTS]
        for method, clip_norm, name in runs:
            right, spent, history = train(clip_norm, epsilon, seed, name)
            setting = _setting(epsilon)
            rows += [Row("accuracy", method, right, setting), Row("epsilon spent", method, spent, setting)]
            marks = (0, 5, 10, 20) if history else ()
            rows += [Row("clip norm", method, history[r], f"{setting}, round {r}") for r in marks]
    return rows


def _setting(epsilon: float) -> str:
    return f"epsilon {epsilon:g}"


def _within_budget(table: Table) -> tuple[bool, str]:
    shares = [
        table.values("epsilon spent", method, _setting(e)).max() / e
        for e in EPSILONS
        for method in table.names("method", "epsilon spent")
    ]
    return max(shares) <= 1, f"largest share of the budget {max(shares):.4f}"


def draw(table: Table, figure: Figure) -> None:
    """Accuracy against the initial clip norm, and where the clip norm goes."""
    axes = figure.subplots(1, 3)
    for ax, epsilon in zip(axes, EPSILONS, strict=False):
        setting = _setting(epsilon)
        series: dict[str, tuple[tuple[float, ...], list[str]]] = {"fixed": (FIXED, [fixed(c) for c in FIXED])}
        series |= {name: (STARTS, [started(name, c) for c in STARTS]) for name in ADAPTIVE}
        for number, (name, (places, methods)) in enumerate(series.items()):
            values = np.stack([table.values("accuracy", method, setting) for method in methods])
            ax.errorbar(
                places, values.mean(1), values.std(1), marker="os^v"[number], markersize=5, capsize=3, label=name,
                color=f"C{number}",
            )  # fmt: skip
        ax.set(title=setting, xlabel="clip norm at the start", ylabel="test accuracy", xscale="log")
    axes[0].legend(fontsize=8)
    rounds = (0, 5, 10, 20)
    for number, name in enumerate(ADAPTIVE):
        for c in STARTS:
            norms = [table.mean("clip norm", started(name, c), f"{_setting(EPSILONS[-1])}, round {r}") for r in rounds]
            axes[2].plot(rounds, norms, marker="s^v"[number], markersize=4, color=f"C{number + 1}")
    axes[2].set(title=f"Clip norm, epsilon {EPSILONS[-1]:g}", xlabel="round", ylabel="C", yscale="log")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 30), registered="e09726b4dd9d")
