"""Do norm clipping and the gradient-flow penalty make a recurrent network learn what plain SGD does not?"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from binderclip.data.made.temporal_order import TemporalOrder, temporal_order
from binderclip.losses import GradientFlowPenalty, unroll
from binderclip.optim import NormClip
from binderclip.studies.harness.criteria import Criterion
from binderclip.studies.harness.quantities import value_of
from binderclip.studies.harness.study import FIRST_RULES, Study
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.harness.threads import one_thread
from binderclip.studies.protocols import spike_clip

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("SGD", "clip", "clip + penalty")
LENGTHS = {"20-29": (20, 29), "40-49": (40, 49)}
UNITS, BATCH, RATE, CUTOFF, ALPHA = 50, 20, 0.1, 1.0, 2.0
STEPS, EVERY, STOP, SOLVED = 2000, 250, 0.05, 0.10
TEST = 500
QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)
HISTOGRAM = "share of steps by gradient norm before clipping at 1, small CLIP (information)"
EDGES = tuple(2.0**power for power in range(-2, 15))
"""Of the histogram's bins."""


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
    optimizer = torch.optim.SGD(net.parameters(), lr=RATE)
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
    rows: list[Row] = []
    with one_thread():
        for name, lengths in LENGTHS.items():
            for method in METHODS:
                rows += _rows(method, name, train(method, lengths, seed))
    return rows + _histogram(spike_clip.run("norm 1", seed).norms)


def _histogram(norms: np.ndarray) -> list[Row]:
    """Which share of the steps lies in each bin; the first and the last are open."""
    counts = np.histogram(np.clip(norms, EDGES[0] / 1.5, EDGES[-1] * 1.5), (0.0, *EDGES, math.inf))[0]
    return [
        Row(HISTOGRAM, "norm 1", count / len(norms), name) for name, count in zip(_bins(), counts.tolist(), strict=True)
    ]


def _bins() -> list[str]:
    inner = [f"{low:g} to {high:g}" for low, high in itertools.pairwise(EDGES)]
    return [f"below {EDGES[0]:g}", *inner, f"from {EDGES[-1]:g}"]


def _rows(method: str, length: str, run: Trained) -> list[Row]:
    curve = run.errors + [run.errors[-1]] * (STEPS // EVERY - len(run.errors))
    rows = [
        Row("final test error", method, run.errors[-1], length),
        Row(f"batches to an error below 5% (at most {STEPS:,})", method, float(run.steps), length),
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


def _penalty_is_faster(table: Table) -> tuple[bool, str]:
    metric = f"batches to an error below 5% (at most {STEPS:,})"
    clipped, ours = (float(np.median(table.values(metric, method, "20-29"))) for method in METHODS[1:])
    return ours <= 0.75 * clipped, f"median batches at 20-29: clip {clipped:,.0f}, clip + penalty {ours:,.0f}"


def draw(table: Table, figure: Figure) -> None:
    """Test error over the batches at both lengths, and the gradient norms met there and on the small CLIP."""
    figure.set_size_inches(10, 3.4)
    axes = figure.subplots(1, 4)
    batches = [EVERY * (i + 1) for i in range(STEPS // EVERY)]
    for ax, length in zip(axes, LENGTHS, strict=False):
        for number, method in enumerate(METHODS):
            curves = np.stack([table.values(f"test error, {length}", method, f"{n:,} batches") for n in batches])
            ax.plot(batches, curves, color=f"C{number}", alpha=0.35, linewidth=1)
            ax.plot(batches, np.median(curves, 1), marker="o", markersize=4, color=f"C{number}", label=method)
        ax.axhline(0.75, color="0.5", linestyle=":", linewidth=1, label="guessing")
        ax.set(title=f"{length} steps", xlabel="batches of 20", ylabel="test error", ylim=(0, 1))
    axes[1].legend(loc="lower left")
    for number, method in enumerate(METHODS):
        metric = "gradient norm before clipping, 20-29"
        norms = [table.mean(metric, method, f"{q:.0%} quantile") for q in QUANTILES]
        axes[2].plot(norms, QUANTILES, marker="o", markersize=4, color=f"C{number}", label=method)
    cutoff = axes[2].axvline(CUTOFF, color="0.5", linestyle=":", linewidth=1)
    axes[2].legend([cutoff], ["cutoff"], loc="lower right")
    axes[2].set(title="Norms, 20-29", xlabel="norm before clipping", ylabel="share of batches below")
    axes[2].set_xscale("log")
    shares = [table.mean(HISTOGRAM, "norm 1", name) for name in _bins()]
    left = np.array([EDGES[0] / 2, *EDGES])
    axes[3].bar(left, shares, left, align="edge", color="C4", edgecolor="white", linewidth=0.5)
    axes[3].axvline(CUTOFF, color="0.5", linestyle=":", linewidth=1)
    axes[3].set(title="Small CLIP", xlabel="norm before clipping", ylabel="share of steps")
    axes[3].set_xscale("log", base=2)
    axes[3].set_xticks([1, 16, 256, 4096], ["1", "16", "256", "4096"])


BATCHES = f"batches to an error below 5% (at most {STEPS:,})"

STUDY = Study(
    paper="p009",
    claim="Clipping the gradient's norm makes training a recurrent network work where plain SGD fails, and the "
    "gradient-flow penalty on top makes longer dependencies trainable.",
    protocol=f"Temporal-order problem, sequences of 20-29 and 40-49 steps; tanh network of {UNITS} units with the "
    f"sparse start of spectral radius 0.95; SGD at {RATE}, batches of {BATCH}, cutoff {CUTOFF:g}, penalty alpha "
    f"{ALPHA:g}, power 2; at most {STEPS:,} batches, error on {TEST} sequences every {EVERY}, stopped below 5%. A seed "
    "counts as solved below 10%. For information, the norms that NormClip(1) meets where the small CLIP of the "
    "spike study trains on. " + spike_clip.PROTOCOL,
    baseline="SGD without clipping; SGD with clipping and no penalty.",
    lower_bound="Guessing among four classes: error 0.75; knowing one of the two symbols: 0.5.",
    upper_bound="Error 0: the class is a function of the sequence.",
    measure=measure,
    criteria=(
        Criterion.paired(
            "at 20-29 steps clip needs fewer batches than SGD (all, where it fails)",
            value_of(BATCHES, "clip", "20-29"),
            value_of(BATCHES, "SGD", "20-29"),
            lower=True,
            essential=True,
        ),
        Criterion.paired(
            "at 40-49 steps clip + penalty needs fewer batches than clip",
            value_of(BATCHES, "clip + penalty", "40-49"),
            value_of(BATCHES, "clip", "40-49"),
            lower=True,
            essential=True,
        ),
        Criterion("at 20-29 steps the penalty's median time is at most 3/4 of clip's", _penalty_is_faster),
    ),
    draw=draw,
    remeasure=FIRST_RULES,
    stand_in=(
        "sequences of 20 to 49 steps instead of up to 200",
        "success at 5% of 500 test sequences instead of 0.01% of 10,000",
        "learning rate 0.1 and 2,000 batches instead of 0.01 and millions",
    ),
)
