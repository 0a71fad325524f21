"""Does adaptive sharpness rank networks by how well they generalise, or by the learning rate that they had?"""

from __future__ import annotations

from functools import cache
from itertools import product

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

SIDE, TRAIN, TEST, EPOCHS, MEASURED, BATCH, STEPS = 14, 1000, 1000, 20, 256, 128, 10
RATES, BATCHES, SHIFTS = (0.005, 0.01, 0.02, 0.05), (32, 128), (0, 1)
WORST, AVERAGE, NOISE = 0.005, 0.1, 1.0
"""Radius of the worst case (linf) and of the average (Gaussian), in units of |w|; noise of shifted test pictures."""
MEASURES = ("worst", "worst, logits normalised", "average", "average, logits normalised")
RATE, ERROR, SHIFTED = "learning rate", "test error", "error on noisy pictures"
TAU, STRENGTH = "Kendall's tau", "size of Kendall's tau"


@cache
def _all() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    train, test = clothing("train", 10_000, SIDE), clothing("test", 4000, SIDE)
    return (standardised(train[0]), train[1]), (standardised(test[0]), test[1])


def trained(images: Tensor, labels: Tensor, seed: int, rate: float, batch: int, shift: int) -> nn.Module:
    """A perceptron of one hidden layer of 32, by SGD with momentum; pictures move by up to `shift` pixels."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9)
    g = torch.Generator().manual_seed(seed)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(images), generator=g).split(batch):
            moved = torch.randint(-shift, shift + 1, (2,), generator=g).tolist()
            optimizer.zero_grad()
            F.cross_entropy(net(images[rows].roll(moved, (2, 3))), labels[rows]).backward()
            optimizer.step()
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
    settings = list(product(RATES, BATCHES, SHIFTS))
    nets = [trained(x, y, seed, *setting) for setting in settings]
    found = list(zip(*(sharpness(net, batches) for net in nets), strict=True))
    against = {
        RATE: [setting[0] for setting in settings],
        ERROR: [1 - accuracy(net, u, v) for net in nets],
        SHIFTED: [1 - accuracy(net, noisy, v) for net in nets],
    }
    report = sharpness_report(dict(zip(MEASURES, found, strict=True)), against, resamples=1)
    pairs = [(name, target, report.of(name, target)) for name, target in product(MEASURES, against)]
    made = [Row("mean of the networks", target, sum(values) / len(nets)) for target, values in against.items()]
    made += [Row(TAU, target, tau, name) for name, target, tau in pairs]
    return made + [Row(STRENGTH, target, abs(tau), name) for name, target, tau in pairs]


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
        ax.set_xticks(range(3), ["rate", "test", "noisy"])
        ax.set_title(name.replace(", ", ",\n"), fontsize=9)
    axes[0].set_ylabel(TAU)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 20), registered="c9492dc47c12")
