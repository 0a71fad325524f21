"""Do networks that spike once train better behind a threshold that follows the potentials, and its penalty?"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from scipy.stats import beta, halfnorm, uniform
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.compress import HoyerSpike
from binderclip.studies.harness import Row, Table, accuracy, declared_study
from binderclip.studies.protocols.training.spike import digits

STEPS, BATCH, RATE, PENALTY, NEAR, POTENTIALS = 250, 32, 3e-3, 1e-3, 0.1, 20_001
SIZES = ((8, 16), (16, 4), (64, 1))
"""Channels and places of each layer that spikes."""
DENSITIES: dict[str, Any] = {"uniform": uniform(-0.5, 1.5), "half-normal": halfnorm(0, 0.5), "arcsine": beta(0.5, 0.5)}
ACCURACY, SPIKES, CLOSE = "test accuracy", "spikes a potential", "share of potentials near the threshold"
OTHER = "potentials that are not pushed away from the threshold"
RELU, FIXED, HALF, PLAIN, HOYER = "ReLU", "threshold 1", "threshold 0.5", "Hoyer threshold", "Hoyer threshold, penalty"
MODES: dict[str, dict[str, Any]] = {
    FIXED: {"mode": "fixed"}, HALF: {"mode": "fixed", "threshold_scale": 0.5}, PLAIN: {}, HOYER: {}
}  # fmt: skip


@lru_cache(maxsize=1)
def not_pushed() -> dict[str, float]:
    """Share of the potentials within (0, 1) of each density that the penalty's descent moves towards the threshold."""
    result = {}
    for name, density in DENSITIES.items():
        quantiles = density.ppf((np.arange(POTENTIALS) + 0.5) / POTENTIALS)
        x = torch.from_numpy(quantiles)[:, None].requires_grad_()
        spike = HoyerSpike(1, "layer").double()
        spikes = spike(x)[:, 0] > 0
        assert spike.penalty is not None
        (slope,) = torch.autograd.grad(spike.penalty, x)
        inside = (x[:, 0] > 0) & (x[:, 0] < 1)
        # Descent raises those that spike and lowers the others.
        result[name] = float(((slope[:, 0] < 0) != spikes)[inside].double().mean())
    return result


def network(method: str, seed: int) -> nn.Sequential:
    """Two convolutions and a linear layer that spike, and a linear one that does not, on 8 x 8 pixels."""
    torch.manual_seed(seed)
    options = [{"mode": "channel" if places > 1 else "layer"} | MODES.get(method, {}) for _, places in SIZES]
    spikes = [HoyerSpike(channels, **each) for (channels, _), each in zip(SIZES, options, strict=True)]
    nonlinear = [nn.ReLU()] * len(SIZES) if method == RELU else spikes
    return nn.Sequential(
        *(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(8)),
        *(nonlinear[0], nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.MaxPool2d(2), nn.BatchNorm2d(16)),
        *(nonlinear[1], nn.Flatten(), nn.Linear(64, 64, bias=False), nn.BatchNorm1d(64), nonlinear[2]),
        nn.Linear(64, 10),
    )


def train(method: str, seed: int) -> nn.Sequential:
    """The network after `STEPS` of Adam."""
    x, y, net = *digits()[:2], network(method, seed)
    optimizer = torch.optim.Adam(net.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for batch in torch.randint(len(x), (STEPS, BATCH), generator=torch.Generator().manual_seed(seed)):
        loss = F.cross_entropy(net(x[batch]), y[batch])
        if method == HOYER:
            penalties = [layer.penalty for layer in net if isinstance(layer, HoyerSpike) and layer.penalty is not None]
            for penalty, size in zip(penalties, SIZES, strict=True):
                loss = loss + PENALTY * penalty / (BATCH * math.prod(size))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return net.eval()


@torch.no_grad()
def potential_rows(net: nn.Sequential, method: str, x: Tensor) -> list[Row]:
    """How many potentials spike, and lie near the threshold, on average over the layers."""
    spikes, close = [], []
    for layer in net:
        out = layer(x)
        if isinstance(layer, HoyerSpike):
            threshold = torch.ones(1) if layer.mode == "fixed" else layer.running_threshold
            threshold = layer.threshold_scale * threshold.view(-1, *[1] * (x.ndim - 2))
            spikes.append(float(out.mean()))
            close.append(float(((x / layer.v.abs() - threshold).abs() < NEAR).float().mean()))
        x = out
    return [Row(SPIKES, method, float(np.mean(spikes))), Row(CLOSE, method, float(np.mean(close)))]


def measure(seed: int) -> list[Row]:
    """All rows of one seed; those of the densities are the same in each."""
    _, _, x, y = digits()
    rows = [Row(OTHER, name, value) for name, value in not_pushed().items()]
    for method in (RELU, *MODES):
        net = train(method, seed)
        rows.append(Row(ACCURACY, method, accuracy(net, x, y)))
        rows += potential_rows(net, method, x) if method in MODES else []
    return rows


def all_pushed(table: Table) -> tuple[bool, str]:
    """Whether the penalty moves every potential away from the threshold."""
    most = max(table.values(OTHER, name).max() for name in DENSITIES)
    return most == 0, f"all but a share of {most:g}"


def random_numbers(seed: int) -> list[Row]:
    """The null: shares and accuracies at random."""
    draw = np.random.default_rng([seed, 6]).uniform
    rows = [Row(OTHER, name, draw()) for name in DENSITIES]
    return rows + [Row(metric, method, draw()) for metric in (ACCURACY, CLOSE) for method in MODES]


STUDY = declared_study(__name__, measure, null=random_numbers, seeds=range(40, 64), registered="6a8da2568d62")
