"""Does sharpness-aware minimisation generalise better where labels are wrong, and end where the loss is flatter?"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.fit import fit
from binderclip.landscape import Neighbourhood, classification_loss, worst_case_sharpness
from binderclip.optim import SAM
from binderclip.studies.harness import Figure, Row, Table, accuracy, declared_study
from binderclip.studies.harness.power import t_interval
from binderclip.studies.protocols.data.clothing import clothing, standardised

SIDE, TRAIN, TEST, BATCH, WRONG = 14, 1000, 1000, 50, 0.4
LR, RHO, MEASURED, RADIUS = 0.05, 0.2, 256, 0.05
PLAIN, SHARP = "SGD", "SAM"
RADII, GRADIENTS = {PLAIN: 0.0, SHARP: RHO}, {PLAIN: 1, SHARP: 2}
"""Of the methods: the radius, and how many gradients a step costs."""
EPOCHS = {PLAIN: (20, 40, 80), SHARP: (10, 20, 40)}
"""Of SAM's runs each costs as much as the one of SGD in the same place."""
ACCURACY, SHARPNESS = "test accuracy", "worst-case sharpness"


@cache
def _all() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    train, test = clothing("train", 10_000, SIDE), clothing("test", 4000, SIDE)
    return (standardised(train[0]), train[1]), (standardised(test[0]), test[1])


def pictures(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training pictures with their labels, of which some are wrong, and test pictures with the right ones."""
    (x, y), (u, v) = _all()
    g = torch.Generator().manual_seed(seed)
    rows, held = torch.randperm(len(x), generator=g)[:TRAIN], torch.randperm(len(u), generator=g)[:TEST]
    labels = y[rows].clone()
    wrong = torch.randperm(TRAIN, generator=g)[: int(WRONG * TRAIN)]
    labels[wrong] = (labels[wrong] + torch.randint(1, 10, (len(wrong),), generator=g)) % 10
    return x[rows], labels, u[held], v[held]


def network(seed: int) -> nn.Sequential:
    """Two convolutions of widths 8 and 16 with stride 2, and a hidden layer of 64."""
    torch.manual_seed(seed)
    layers = [nn.Conv2d(1, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(256, 64), nn.ReLU(), nn.Linear(64, 10))


def trained(name: str, epochs: int, seed: int) -> nn.Module:
    """All runs of a seed share the first weights, and the order of the batches as far as they go."""
    images, labels, *_ = pictures(seed)
    net = network(seed)
    g = torch.Generator().manual_seed(seed)
    order = [rows for _ in range(epochs) for rows in torch.randperm(TRAIN, generator=g).split(BATCH)]
    sam = SAM(net.parameters(), torch.optim.SGD, rho=RADII[name], lr=LR, momentum=0.9)

    def step(rows: Tensor) -> Tensor:
        return F.cross_entropy(net(images[rows]), labels[rows])

    run: dict[str, Any] = {"steps": len(order), "optimizer": sam if RADII[name] else sam.base, "schedule": "cosine"}
    fit(sam.around(step) if RADII[name] else step, net, order, **run)
    return net.eval()


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    images, labels, test, classes = pictures(seed)
    batches = list(zip(images[:MEASURED].split(128), labels[:MEASURED].split(128), strict=True))
    rows = []
    for name, epochs in ((method, epochs) for method in EPOCHS for epochs in EPOCHS[method]):
        net, where = trained(name, epochs, seed), f"{epochs} epochs"
        found = worst_case_sharpness(classification_loss(net), batches, Neighbourhood(net, RADIUS), steps=10)
        rows.append(Row(ACCURACY, name, accuracy(net, test, classes), where))
        rows.append(Row(SHARPNESS, name, found.mean, where))
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Means with their intervals: accuracy and sharpness by epochs, and accuracy by the gradients taken."""
    axes = figure.subplots(1, 3)
    for ax, metric, cost in zip(axes, (ACCURACY, ACCURACY, SHARPNESS), (False, True, False), strict=True):
        for name in EPOCHS:
            found = [t_interval(table.values(metric, name, f"{epochs} epochs")) for epochs in EPOCHS[name]]
            means, errors = [each.effect for each in found], [each.high - each.effect for each in found]
            places = [epochs * (GRADIENTS[name] if cost else 1) for epochs in EPOCHS[name]]
            ax.errorbar(places, means, yerr=errors, marker="o", markersize=4, capsize=3, label=name)
        ax.set(title=f"{metric}, by {'cost' if cost else 'epochs'}", xscale="log")
        ax.set(xlabel="gradients of each training picture" if cost else "epochs")
        ax.set_xticks((ticks := (20, 40, 80) if cost else (10, 20, 40, 80)), [str(tick) for tick in ticks])
        ax.minorticks_off()
        ax.legend()


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 28), registered="41fd4716cc69")
