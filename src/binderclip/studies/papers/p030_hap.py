"""Does curvature times size say which channels a network can lose, and do cheap implants help it to recover?"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.compress import (
    GradientScore,
    HessianTraceScore,
    MagnitudeScore,
    PruneBudget,
    RandomScore,
    channel_groups,
    implant_channels,
    masked,
)
from binderclip.compress.weights.groups import PruneGroups
from binderclip.studies.harness import Row, accuracy, declared_study
from binderclip.studies.protocols.training.spike import digits

WIDTHS, EPOCHS, BATCH, PROBES, AMOUNT, MORE, IMPLANTS, TUNING, DRAWS = (16, 32, 32), 6, 64, 60, 0.25, 0.7, 0.3, 4, 8
RANKS, ACCURACY, TUNED = "rank correlation with the true rise", "validation accuracy", "validation accuracy, tuned"
HAP, MAGNITUDE, GRADIENT, CHANCE = "HAP", "magnitude", "gradient", "random"
PLAIN, WITH_IMPLANTS, DENSE = "HAP without implants", "HAP with implants", "whole"


def pictures(images: Tensor) -> Tensor:
    """Rows of 64 pixels as (N, 1, 8, 8)."""
    return images.view(-1, 1, 8, 8)


def network(seed: int) -> nn.Sequential:
    """Three 3 x 3 convolutions with batch norm, pooling and a classifier."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs, outputs in zip((1, *WIDTHS), WIDTHS, strict=False):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers[:6], nn.MaxPool2d(2), *layers[6:], nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(WIDTHS[-1], 10))  # fmt: skip


def tuned(net: nn.Module, seed: int, epochs: int, rate: float) -> nn.Module:
    """Train in place, Nesterov momentum .9, cosine; in evaluation mode afterwards."""
    x, y, _, _ = digits()
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(net.train().parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=4e-4)
    steps = epochs * (len(x) // BATCH)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator)[: len(x) // BATCH * BATCH].split(BATCH):
            loss = F.cross_entropy(net(pictures(x[rows])), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cosine.step()
    return net.eval()


def loss_of(net: nn.Module) -> Tensor:
    """Mean loss over 512 training pictures, by which all scores judge."""
    return F.cross_entropy(net(pictures(digits()[0][:512])), digits()[1][:512])


def rises(net: nn.Module, groups: list[PruneGroups]) -> Tensor:
    """By how much the loss rises without each channel, one at a time."""
    with torch.no_grad():
        whole, values = loss_of(net), []
        for own, number in ((one, number) for one in groups for number in range(len(one))):
            with masked([own], {own.name: torch.arange(len(own)) != number}):
                values.append(loss_of(net) - whole)
    return torch.stack(values)


def twins(net: nn.Module, score: dict[str, Tensor]) -> dict[str, tuple[int, nn.Module]]:
    """Parameters and network: with implants, and without, where fewer channels go so that no fewer are left."""

    def cut(gone: float, implants: float) -> tuple[int, nn.Module]:
        twin = copy.deepcopy(net)
        implant_channels(twin, channel_groups(twin), score, amount=gone / sum(WIDTHS), implants=implants)
        return sum(p.numel() for p in twin.parameters()), twin

    implanted, most = cut(MORE * sum(WIDTHS), IMPLANTS), round(MORE * sum(WIDTHS))
    plain = next(one for gone in range(most, 0, -1) if (one := cut(gone, 0.0))[0] >= implanted[0])
    return {PLAIN: plain, WITH_IMPLANTS: implanted}


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    net = tuned(network(seed), seed, EPOCHS, 0.1)
    groups = channel_groups(net)
    methods: dict[str, Any] = {
        HAP: HessianTraceScore(loss=lambda: loss_of(net), probes=PROBES, seed=seed), MAGNITUDE: MagnitudeScore(),
        GRADIENT: GradientScore(losses=lambda: [loss_of(net)]), CHANCE: RandomScore(seed=seed),
    }  # fmt: skip
    scores = {name: method(net, groups) for name, method in methods.items()}
    (x, y), rise, budget = digits()[2:], rises(net, groups).numpy(), PruneBudget(amount=AMOUNT, scope="global")

    def left(own: dict[str, Tensor]) -> float:
        with masked(groups, budget.select(own)):
            return accuracy(net, pictures(x), y)

    chance = [left(RandomScore(seed=DRAWS * seed + number)(net, groups)) for number in range(DRAWS)]
    rows = [Row(ACCURACY, DENSE, accuracy(net, pictures(x), y)), Row(ACCURACY, CHANCE, float(np.mean(chance)))]
    rows += [Row(ACCURACY, name, left(own)) for name, own in scores.items() if name != CHANCE]
    flat = {name: torch.cat(list(own.values())).numpy() for name, own in scores.items()}
    rows += [Row(RANKS, name, float(spearmanr(own, rise).statistic)) for name, own in flat.items()]
    for name, (size, twin) in twins(net, scores[HAP]).items():
        after = accuracy(tuned(twin, seed, TUNING, 0.05), pictures(x), y)
        rows += [Row(TUNED, name, after), Row("parameters", name, size)]
    return rows


STUDY = declared_study(__name__, measure, seeds=range(52, 64), registered="088b60ac1fe1")
