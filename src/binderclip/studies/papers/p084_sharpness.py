"""Does adaptive sharpness rank networks by how well they generalise, or by the learning rate that they had?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import product

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.landscape import (
    Neighbourhood,
    average_sharpness,
    classification_loss,
    sharpness_report,
    worst_case_sharpness,
)
from binderclip.studies.harness import Figure, Row, Table, accuracy, declared_study
from binderclip.studies.protocols.data.clothing import clothing, standardised

SIDE, WIDTH, TRAIN, TEST, EPOCHS, MEASURED, BATCH, STEPS = 14, 128, 500, 1000, 350, 256, 128, 10
RATES, BATCHES, MIRRORED = (0.01, 0.02, 0.035, 0.05), (16, 64), (False, True)
WORST, AVERAGE, NOISE = 0.005, 0.1, 1.0
"""Radius of the worst case (linf) and of the average (Gaussian), in units of |w|; noise of shifted test pictures."""
MEASURES = ("worst", "worst, logits normalised", "average", "average, logits normalised")
RATE, ERROR, SHIFTED = "learning rate", "test error", "error on noisy pictures"
FITTED, LEAST = "accuracy on training pictures", "least of the networks"
TAU, STRENGTH = "Kendall's tau", "size of Kendall's tau"


@cache
def _all() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    train, test = clothing("train", 10_000, SIDE), clothing("test", 4000, SIDE)
    return (standardised(train[0]), train[1]), (standardised(test[0]), test[1])


def trained(images: Tensor, labels: Tensor, seed: int, rate: float, batch: int, mirrored: bool) -> nn.Module:
    """A perceptron of one hidden layer, by SGD with momentum and a rate that falls to 0 in a line."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, EPOCHS)
    g = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=g).split(batch):
            heads = torch.rand(len(rows), 1, 1, 1, generator=g) < 0.5
            inputs = torch.where(heads & mirrored, images[rows].flip(3), images[rows])
            optimizer.zero_grad()
            F.cross_entropy(net(inputs), labels[rows]).backward()
            optimizer.step()
        decay.step()
    return net.eval()


def sharpness(net: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> list[float]:
    """The four measures, in the order of `MEASURES`."""
    worst = Neighbourhood(net, WORST, norm="linf", scale="weight")
    average = Neighbourhood(net, AVERAGE, scale="weight")
    losses = [classification_loss(net, normalise_logits=normalise) for normalise in (False, True)]
    found = [worst_case_sharpness(loss, batches, worst, steps=STEPS).mean for loss in losses]
    return found + [average_sharpness(loss, batches, average, draws=10).mean for loss in losses]


def measure(seed: int) -> list[Row]:
    """All rows of one seed: sixteen networks, and how four measures rank them."""
    (x, y), (u, v) = _all()
    g = torch.Generator().manual_seed(seed)
    rows, held = torch.randperm(len(x), generator=g)[:TRAIN], torch.randperm(len(u), generator=g)[:TEST]
    x, y, u, v = x[rows], y[rows], u[held], v[held]
    noisy = u + NOISE * torch.randn(u.shape, generator=g)
    batches = list(zip(x[:MEASURED].split(BATCH), y[:MEASURED].split(BATCH), strict=True))
    settings = list(product(RATES, BATCHES, MIRRORED))
    nets = [trained(x, y, seed, *setting) for setting in settings]
    found = list(zip(*(sharpness(net, batches) for net in nets), strict=True))
    against = {
        RATE: [setting[0] for setting in settings],
        ERROR: [1 - accuracy(net, u, v) for net in nets],
        SHIFTED: [1 - accuracy(net, noisy, v) for net in nets],
    }
    made = [Row(FITTED, LEAST, min(accuracy(net, x, y) for net in nets))]
    made += [Row("mean of the networks", target, sum(values) / len(nets)) for target, values in against.items()]
    return made + correlations(dict(zip(MEASURES, found, strict=True)), against)


def correlations(measured: dict[str, Sequence[float]], against: dict[str, list[float]]) -> list[Row]:
    """Kendall's tau of each measure with each target over the networks, and its size."""
    report = sharpness_report(measured, against, resamples=1)
    pairs = [(name, target, report.of(name, target)) for name, target in product(measured, against)]
    signed = [Row(TAU, target, tau, name) for name, target, tau in pairs]
    return signed + [Row(STRENGTH, target, abs(tau), name) for name, target, tau in pairs]


def random_order(seed: int) -> list[Row]:
    """The rows that random numbers in the place of the four measures give, against targets as random."""
    draw = np.random.default_rng([seed, 84]).random
    rates = [rate for rate, *_ in product(RATES, BATCHES, MIRRORED)]
    against = {RATE: rates, ERROR: draw(len(rates)).tolist(), SHIFTED: draw(len(rates)).tolist()}
    return correlations({name: draw(len(rates)).tolist() for name in MEASURES}, against)


def draw(table: Table, figure: Figure) -> None:
    """Tau of each measure with the learning rate and both errors, a point a seed."""
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    targets = (RATE, ERROR, SHIFTED)
    for ax, name in zip(axes, MEASURES, strict=True):
        for place, target in enumerate(targets):
            values = table.values(TAU, target, name)
            ax.plot([place] * len(values), values, "o", markersize=4, alpha=0.5, color=f"C{place}")
            ax.plot([place - 0.2, place + 0.2], [values.mean()] * 2, color="C3")
        ax.axhline(0, color="0.5", linewidth=1)
        ax.set_xticks(range(3), ["learning\nrate", "test\nerror", "noisy\nerror"], fontsize=8)
        ax.set_title(name.replace(", ", ",\n"), fontsize=9)
    axes[0].set_ylabel(TAU)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 30), null=random_order, registered="c513507e98e6")
