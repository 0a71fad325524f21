"""Does Stable-SPAM train in 4 bits, and through spikes, more stably than Adam?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.optim import NormClip, StableSPAM, quantized_linear
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.studies.protocols.training.spike import BATCH, SpikeRun, digits, draw_losses, train

STEPS, GAP = 400, 500
RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
Maker = Callable[[Iterable[Tensor], float], torch.optim.Optimizer]
CLIPPED = "Adam, norm 1"
OPTIMIZERS: dict[str, Maker] = {
    "Adam": lambda params, lr: torch.optim.Adam(params, lr),
    CLIPPED: lambda params, lr: torch.optim.Adam(params, lr),
    "Stable-SPAM": lambda params, lr: StableSPAM(params, lr, update_proj_gap=GAP),
}
LOSS, RATIO = "training loss in 4 bits", "largest / median gradient norm at the moments"
SPIKED, HELD = "training loss, spike study", "validation loss, spike study"
SPIKE_RUNS: dict[str, tuple[str, float]] = {
    "Adam": ("Adam", 1e-2),
    "Adam, lr 0.003": ("Adam", 3e-3),
    CLIPPED: (CLIPPED, 1e-2),
    "Stable-SPAM": ("Stable-SPAM", 1e-2),
    "Stable-SPAM, literal reset": ("literal", 1e-2),
}


def four_bits(name: str, lr: float, seed: int) -> tuple[float, float]:
    """Mean loss of the last 50 steps, and the largest over the median norm of what reached the moments."""
    x, y, _, _ = digits()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)
        )
    quantized_linear(model, bits=4, group_size=64)
    generator = torch.Generator().manual_seed(seed)
    params = list(model.parameters())
    optimizer = OPTIMIZERS[name](params, lr)
    clip = NormClip(1.0) if name == CLIPPED else None
    if clip is not None:
        clip.attach(optimizer)
    losses, norms = [], []
    for _ in range(STEPS):
        batch = torch.randint(len(x), (BATCH,), generator=generator)
        loss = F.cross_entropy(model(x[batch]), y[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if isinstance(optimizer, StableSPAM):
            assert optimizer.report is not None
            norms.append(float(optimizer.report.target.norm()))
        else:
            norm = float(torch.stack([p.grad.norm() for p in params if p.grad is not None]).norm())
            norms.append(norm if clip is None else min(norm, 1.0))
    return float(np.mean(losses[-50:])), float(np.max(norms) / np.median(norms))


@lru_cache(maxsize=32)
def spiked(method: str, seed: int) -> SpikeRun:
    """One training of the shared spike study."""
    kind, lr = SPIKE_RUNS[method]
    if kind == "literal":
        return train(seed, lambda params: StableSPAM(params, lr, update_proj_gap=GAP, reset="literal"))
    clip = NormClip(1.0) if kind == CLIPPED else None
    return train(seed, lambda params: OPTIMIZERS[kind](params, lr), clip)


def measure(seed: int) -> list[Row]:
    """Losses at every rate in 4 bits, and of the spike study."""
    rows = []
    for lr in RATES:
        for name in OPTIMIZERS:
            loss, ratio = four_bits(name, lr, seed)
            rows += [Row(LOSS, name, loss, f"lr {lr:g}"), Row(RATIO, name, ratio, f"lr {lr:g}")]
    for method in SPIKE_RUNS:
        found = spiked(method, seed)
        rows += [Row(SPIKED, method, found.final), Row(HELD, method, found.validation)]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Loss against rate, what reaches the moments, and the spike study's losses."""
    axes = figure.subplots(1, 3)
    for ax, metric, title in zip(axes, (LOSS, RATIO), ("4-bit training", "Norms at the moments"), strict=False):
        for number, name in enumerate(OPTIMIZERS):
            values = np.stack([table.values(metric, name, f"lr {lr:g}") for lr in RATES])
            mean, spread = values.mean(axis=1), values.std(axis=1)
            ax.errorbar(RATES, mean, spread, marker="o", markersize=4, label=name, color=f"C{number}", capsize=2)
        ax.set(xscale="log", xlabel="learning rate", title=title)
    axes[0].set(yscale="log", ylabel="training loss, last 50 steps")
    axes[1].set(yscale="log", ylabel="largest / median")
    axes[0].legend()
    draw_losses(
        axes[2], {method: spiked(method, 0) for method in ("Adam", CLIPPED, "Stable-SPAM")}, "Spike study, seed 0"
    )


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 22), null=None, registered="5e4a5415636b")
