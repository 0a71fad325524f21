"""Does adaptive sharpness rank networks by how well they generalise, or by the learning rate that they had?"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip import landscape
from binderclip.studies.harness import Figure, Row, Table, accuracy, declared_study, dots
from binderclip.studies.protocols.data.clothing import clothing, standardised

SIDE, WIDTH, TRAIN, TEST, EPOCHS, MEASURED, BATCH, STEPS = 14, 128, 500, 1000, 350, 256, 128, 10
RATES, BATCHES, MIRRORED = (0.01, 0.02, 0.035, 0.05), (16, 64), (False, True)
WORST, AVERAGE, NOISE = 0.005, 0.1, 1.0
"""Radius of the worst case (linf) and of the average (Gaussian), in units of |w|; noise of shifted test pictures."""
MEASURES = ("worst", "worst, logits normalised", "average", "average, logits normalised")
TARGETS = RATE, ERROR, SHIFTED = "learning rate", "test error", "error on noisy pictures"
FITTED, LEAST = "accuracy on training pictures", "least of the networks"
TAU, STRENGTH = "Kendall's tau", "size of Kendall's tau"


@cache
def _all() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    train, test = clothing("train", 10_000, SIDE), clothing("test", 4000, SIDE)
    return (standardised(train[0]), train[1]), (standardised(test[0]), test[1])


def trained(images: Tensor, labels: Tensor, seed: int, batch: int) -> list[nn.Module]:
    """Eight perceptrons at once: for each rate one without mirrored pictures and one with."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    rates, mirrored = (torch.tensor(values) for values in zip(*product(RATES, MIRRORED), strict=True))
    nets: list[nn.Module] = [copy.deepcopy(net).eval() for _ in rates]
    w, b, v, c = weights = list(torch.func.stack_module_state(nets)[0].values())
    optimizer = torch.optim.SGD(weights, lr=1.0, momentum=0.9)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, EPOCHS)
    g = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=g).split(batch):
            heads = (torch.rand(len(rows), generator=g) < 0.5)[:, None] & mirrored[:, None, None]  # 8 B 1
            inputs = torch.where(heads, images[rows].flip(3).flatten(1), images[rows].flatten(1))  # 8 B pixels
            logits = (inputs @ w.mT + b[:, None]).relu() @ v.mT + c[:, None]
            loss = F.cross_entropy(logits.flatten(0, 1), labels[rows].repeat(len(nets)), reduction="none")
            optimizer.zero_grad()
            (rates @ loss.view(len(nets), -1).mean(1)).backward()  # a loss times a rate makes steps of that rate
            optimizer.step()
        decay.step()
    for each, *parts in zip(nets, *weights, strict=True):
        each.load_state_dict(dict(zip(each.state_dict(), parts, strict=True)))
    return nets


def sharpness(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """The four measures, in the order of `MEASURES`."""
    worst = landscape.Neighbourhood(net, WORST, norm="linf", scale="weight")
    average = landscape.Neighbourhood(net, AVERAGE, scale="weight")
    losses = [landscape.classification_loss(net, normalise_logits=normalise) for normalise in (False, True)]
    found = [landscape.worst_case_sharpness(loss, batches, worst, steps=STEPS).mean for loss in losses]
    return found + [landscape.average_sharpness(loss, batches, average, draws=10).mean for loss in losses]


def measure(seed: int) -> list[Row]:
    """All rows of one seed: sixteen networks, and how four measures rank them."""
    (x, y), (u, v) = _all()
    g = torch.Generator().manual_seed(seed)
    rows, held = torch.randperm(len(x), generator=g)[:TRAIN], torch.randperm(len(u), generator=g)[:TEST]
    x, y, u, v = x[rows], y[rows], u[held], v[held]
    noisy = u + NOISE * torch.randn(u.shape, generator=g)
    batches = list(zip(x[:MEASURED].split(BATCH), y[:MEASURED].split(BATCH), strict=True))
    nets = [net for batch in BATCHES for net in trained(x, y, seed, batch)]
    found = list(zip(*(sharpness(net, batches) for net in nets), strict=True))
    against = {
        RATE: [rate for _, rate, _ in product(BATCHES, RATES, MIRRORED)],
        ERROR: [1 - accuracy(net, u, v) for net in nets],
        SHIFTED: [1 - accuracy(net, noisy, v) for net in nets],
    }
    made = [Row(FITTED, LEAST, min(accuracy(net, x, y) for net in nets))]
    made += [Row("mean of the networks", target, sum(values) / len(nets)) for target, values in against.items()]
    return made + correlations(dict(zip(MEASURES, found, strict=True)), against)


def correlations(measured: dict[str, Sequence[float]], against: dict[str, list[float]]) -> list[Row]:
    """Kendall's tau of each measure with each target over the networks, and its size."""
    report = landscape.sharpness_report(measured, against, resamples=1)
    pairs = [(name, target, report.of(name, target)) for name, target in product(measured, against)]
    signed = [Row(TAU, target, tau, name) for name, target, tau in pairs]
    return signed + [Row(STRENGTH, target, abs(tau), name) for name, target, tau in pairs]


def random_order(seed: int) -> list[Row]:
    """The rows that random numbers in the place of the four measures give, against targets as random."""
    rates = [rate for _, rate, _ in product(BATCHES, RATES, MIRRORED)]
    error, shifted, *found = np.random.default_rng([seed, 84]).random((2 + len(MEASURES), len(rates))).tolist()
    return correlations(dict(zip(MEASURES, found, strict=True)), {RATE: rates, ERROR: error, SHIFTED: shifted})


def draw(table: Table, figure: Figure) -> None:
    """Tau of each measure with the learning rate and both errors, and its size in the mean of the measures."""
    *axes, last = figure.subplots(1, len(MEASURES) + 1)
    for ax, name in zip(axes, MEASURES, strict=True):
        dots(ax, table, TAU, TARGETS, name)
        ax.axhline(0, color="0.5", linewidth=1)
        ax.set(title=name.replace(", logits ", ",\n"), ylim=(-1, 1), xticklabels=("rate", "test", "noisy"))
    sizes = {of: np.mean([table.values(STRENGTH, of, name) for name in MEASURES], axis=0) for of in TARGETS}
    rows = [Row(STRENGTH, of, value, seed=seed) for of in TARGETS for seed, value in enumerate(sizes[of])]
    dots(last, Table(rows), STRENGTH, TARGETS)
    last.axhline(0.2, color="0.5", linewidth=1, linestyle=":")
    last.set(title="mean size\n(dotted: 0.2)", ylim=(0, 1), xticklabels=("rate", "test", "noisy"))
    axes[0].set_ylabel(TAU)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 30), null=random_order, registered="c513507e98e6")
