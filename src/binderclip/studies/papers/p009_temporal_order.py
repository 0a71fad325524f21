"""Do norm clipping and the gradient-flow penalty make a recurrent network learn what plain SGD does not?"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from binderclip.data.made.temporal_order import TemporalOrder, temporal_order
from binderclip.losses import GradientFlowPenalty, unroll
from binderclip.optim import NormClip
from binderclip.studies.harness import Figure, Row, Table, declared_study

SHORT, LONG = "20-29", "40-49"
LENGTHS = {SHORT: (20, 29), LONG: (40, 49)}
METHODS = {SHORT: ("SGD", "clip", "clip + penalty", "Adam"), LONG: ("clip", "clip + penalty")}
UNITS, BATCH, RATE, ADAM_RATE, CUTOFF, ALPHA = 50, 20, 0.1, 0.001, 1.0, 2.0
STEPS, EVERY, STOP = 6000, 500, 0.05
TEST = 500
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
ERROR, BATCHES = "final test error", f"batches to an error below 5% (at most {STEPS:,})"


class Recurrent(nn.Module):
    """A tanh network that names the class from its last state, with the authors' "smart_tanh" start."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rnn, self.head = nn.RNN(6, UNITS, batch_first=True), nn.Linear(UNITS, 4)
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.zero_() if "bias" in name else parameter.normal_(0, 0.01, generator=g)
            # 15 entries a row where states are rows (h W); torch keeps the transposed matrix
            self.recurrent.copy_(sparse_matrix(UNITS, 15, 0.95, g).T)

    @property
    def recurrent(self) -> nn.Parameter:
        """The recurrent matrix."""
        weight: Any = self.rnn.weight_hh_l0
        return weight

    def forward(self, inputs: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Logits, and the states they came from."""
        states = unroll(self.rnn, inputs)
        return self.head(states[-1]), states


def sparse_matrix(n: int, nonzeros: int, radius: float, generator: torch.Generator) -> Tensor:
    """n x n with `nonzeros` normal entries a row, scaled to a spectral radius."""
    chosen = torch.stack([torch.randperm(n, generator=generator)[:nonzeros] for _ in range(n)])
    values = 0.01 * torch.randn(n, nonzeros, generator=generator)
    matrix = torch.zeros(n, n).scatter_(1, chosen, values)
    return matrix * (radius / spectral_radius(matrix))


def spectral_radius(matrix: Tensor) -> float:
    """Largest absolute eigenvalue."""
    return float(torch.linalg.eigvals(matrix.detach()).abs().max())


@dataclass
class Trained:
    """One run: when it was stopped, its test errors every `EVERY` batches, and what was seen on the way."""

    steps: int = STEPS
    errors: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    omegas: list[float] = field(default_factory=list)
    radius: float = 0.0


def train(method: str, lengths: tuple[int, int], seed: int) -> Trained:
    """Train until the test error is below `STOP`, at most `STEPS` batches."""
    net = Recurrent(seed)
    adam = method == "Adam"
    optimizer = torch.optim.Adam(net.parameters(), ADAM_RATE) if adam else torch.optim.SGD(net.parameters(), RATE)
    clip = NormClip(CUTOFF if "clip" in method else math.inf)
    penalty = GradientFlowPenalty(ALPHA if "penalty" in method else 0.0, power=2)
    batches = torch.Generator().manual_seed(1000 + seed)
    held_out = torch.Generator().manual_seed(2000 + seed)
    tests = [temporal_order(TEST // 10, n, generator=held_out) for n in range(lengths[0], lengths[1] + 1)]
    run = Trained()
    for step in range(1, STEPS + 1):
        batch = temporal_order(BATCH, lengths, generator=batches)
        optimizer.zero_grad()
        logits, states = net(batch.inputs)
        # a penalty of weight 0 only measures Omega, and every tenth batch says enough
        if measured := penalty.alpha > 0 or step % 10 == 0:
            for state in states:
                state.retain_grad()
        nn.functional.cross_entropy(logits, batch.targets).backward()
        if measured:
            run.omegas.append(float(penalty(states, None, net.recurrent)))
        run.norms.append(float(clip(net.parameters()).norm))
        optimizer.step()
        if step % EVERY == 0:
            run.errors.append(error(net, tests))
            if run.errors[-1] < STOP:
                run.steps = step
                break
    run.radius = spectral_radius(net.recurrent)
    return run


@torch.no_grad()
def error(net: Recurrent, tests: list[TemporalOrder]) -> float:
    """Share of wrong answers."""
    wrong = [(net(test.inputs)[0].argmax(1) != test.targets).float() for test in tests]
    return float(torch.cat(wrong).mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    return [
        row
        for name, lengths in LENGTHS.items()
        for method in METHODS[name]
        for row in _rows(method, name, train(method, lengths, seed))
    ]


def _rows(method: str, length: str, run: Trained) -> list[Row]:
    curve = run.errors + [run.errors[-1]] * (STEPS // EVERY - len(run.errors))
    rows = [
        Row(ERROR, method, run.errors[-1], length),
        Row(BATCHES, method, float(run.steps), length),
        Row("mean Omega", method, float(np.mean(run.omegas)), length),
        Row("spectral radius at the end (0.95 at the start)", method, run.radius, length),
    ]
    rows += [
        Row(f"gradient norm before clipping, {length}", method, float(np.quantile(run.norms, q)), f"{q:.0%} quantile")
        for q in QUANTILES
    ]
    rows += [
        Row(f"test error, {length}", method, value, f"{EVERY * (i + 1):,} batches") for i, value in enumerate(curve)
    ]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Test error over the batches at both lengths, and the gradient norms met at the shorter one."""
    axes = figure.subplots(1, 3)
    batches = [EVERY * (i + 1) for i in range(STEPS // EVERY)]
    for ax, length in zip(axes, LENGTHS, strict=False):
        for number, method in enumerate(METHODS[SHORT]):
            if method not in METHODS[length]:
                continue
            curves = np.stack([table.values(f"test error, {length}", method, f"{n:,} batches") for n in batches])
            ax.plot(batches, curves, color=f"C{number}", alpha=0.25, linewidth=1)
            ax.plot(batches, np.median(curves, 1), marker="o", markersize=4, color=f"C{number}", label=method)
        ax.axhline(0.75, color="0.5", linestyle=":", linewidth=1, label="guessing")
        ax.set(title=f"{length} steps", xlabel="batches of 20", ylabel="test error", ylim=(0, 1))
    axes[0].legend(loc="upper right", fontsize=8)
    for number, method in enumerate(METHODS[SHORT]):
        norms = [table.mean(f"gradient norm before clipping, {SHORT}", method, f"{q:.0%} quantile") for q in QUANTILES]
        axes[2].plot(norms, QUANTILES, marker="o", markersize=4, color=f"C{number}", label=method)
    cutoff = axes[2].axvline(CUTOFF, color="0.5", linestyle=":", linewidth=1)
    axes[2].legend([cutoff], ["cutoff"], loc="lower right")
    axes[2].set(title=f"Norms, {SHORT}", xlabel="norm before clipping", ylabel="share of batches below")
    axes[2].set_xscale("log")


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="14f2249d1a84")
