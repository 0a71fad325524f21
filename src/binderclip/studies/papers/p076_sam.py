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
from binderclip.studies.harness import Figure, Row, Table, accuracy, declared_study, dots
from binderclip.studies.protocols.data.clothing import clothing, standardised

SIDE, TRAIN, TEST, BATCH, EPOCHS, WRONG = 14, 1000, 1000, 50, 40, 0.4
LR, RHO, MEASURED, RADIUS = 0.05, 0.2, 256, 0.05
PLAIN, HALF, SHARP, SHORT = "SGD", "SGD, half the epochs", "SAM", "SAM, half the epochs"
RUNS: dict[str, tuple[float, float]] = {PLAIN: (1, 0.0), HALF: (0.5, 0.0), SHARP: (1, RHO), SHORT: (0.5, RHO)}
"""Epochs in units of `EPOCHS`, and the radius."""
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


def trained(name: str, seed: int) -> nn.Module:
    """All runs of a seed share the first weights, and the order of the batches as far as they go."""
    images, labels, *_ = pictures(seed)
    net = network(seed)
    g = torch.Generator().manual_seed(seed)
    length, rho = RUNS[name]
    order = [rows for _ in range(int(length * EPOCHS)) for rows in torch.randperm(TRAIN, generator=g).split(BATCH)]
    sam = SAM(net.parameters(), torch.optim.SGD, rho=rho, lr=LR, momentum=0.9)

    def step(rows: Tensor) -> Tensor:
        return F.cross_entropy(net(images[rows]), labels[rows])

    run: dict[str, Any] = {"steps": len(order), "optimizer": sam if rho else sam.base, "schedule": "cosine"}
    fit(sam.around(step) if rho else step, net, order, **run)
    return net.eval()


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    images, labels, test, classes = pictures(seed)
    batches = list(zip(images[:MEASURED].split(128), labels[:MEASURED].split(128), strict=True))
    rows = []
    for name in RUNS:
        net = trained(name, seed)
        found = worst_case_sharpness(classification_loss(net), batches, Neighbourhood(net, RADIUS), steps=10)
        rows += [Row(ACCURACY, name, accuracy(net, test, classes)), Row(SHARPNESS, name, found.mean)]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Accuracy and sharpness of the four runs."""
    left, right = figure.subplots(1, 2)
    dots(left, table, ACCURACY, tuple(RUNS))
    dots(right, table, SHARPNESS, tuple(RUNS))
    left.set_title(f"test accuracy, {WRONG:.0%} of training labels wrong")
    right.set(title=f"rise of the loss within {RADIUS:g}", yscale="log")
    for ax in (left, right):
        ax.tick_params(axis="x", rotation=20, labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 18), registered="46002f20e076")
