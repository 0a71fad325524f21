"""Does the sharpness of straggler layers say when interpolation helps out of distribution, and does thinning them?"""

from __future__ import annotations

import copy
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor, nn

from binderclip import landscape
from binderclip.studies.harness import Figure, Row, Table, accuracy, declared_study, dots

WIDTH, HIDDEN, PRE, TUNE, STEPS, EXAMPLES, ASCENT, RHO = 64, 6, 700, 400, 120, 192, 8, 0.01
RATES = (0.02, 0.05, 0.1, 0.2, 0.4)
"""Of fine-tuning: every seed has a family of models, fine-tuned from one network, one for each rate."""
AGREEMENT, HALF = "agreement of flatness and gain: minus Kendall's tau over a family", "accuracy half way, shifted"
GAIN, SHARPNESS, OOD, ID = "gain between the ends", "sharpness", "best accuracy between the ends, shifted", "accuracy"
ALL, STRAGGLERS, CHANCE = "all layers", "stragglers", "random scores"
moved = partial(torch.roll, shifts=2, dims=2)
"""The task of fine-tuning: pictures two pixels to the right, around the border."""
PLAIN, THINNED, CONTROL, TUNED = "as fine-tuned", "stragglers thinned", "other layers thinned", "fine-tuned"


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    pictures = load_digits()
    return torch.tensor(pictures.images).float() / 16, torch.tensor(pictures.target).long()


def noisy(images: Tensor, g: torch.Generator, noise: float = 0.3) -> Tensor:
    """Pictures with Gaussian noise, flat."""
    return (images + noise * torch.randn(images.shape, generator=g)).flatten(1)


def pretrained(seed: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A network that knows noisy pictures, and which pictures are to fine-tune on and to test with."""
    images, labels = _digits()
    g = torch.Generator().manual_seed(seed)
    first, second, test = torch.randperm(len(images), generator=g).split([PRE, TUNE, len(images) - PRE - TUNE])
    torch.manual_seed(seed)
    widths = [64, *[WIDTH] * HIDDEN]
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*layers, nn.Linear(WIDTH, 10))
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    for step in range(300):
        rows = first[torch.randint(PRE, (64,), generator=g)]
        _step(net, optimizer, noisy(images[rows].roll(step % 3 - 1, dims=2), g), labels[rows])
    return net.eval(), second, test


def tuned(net: nn.Sequential, own: Tensor, rate: float, seed: int) -> nn.Module:
    """The network fine-tuned on moved pictures without noise."""
    (images, labels), twin, g = _digits(), copy.deepcopy(net), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.SGD(twin.parameters(), lr=rate)
    for _ in range(STEPS):
        rows = own[torch.randint(TUNE, (64,), generator=g)]
        _step(twin, optimizer, moved(images[rows]).flatten(1), labels[rows])
    return twin


def _step(net: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(net(inputs), labels).backward()
    nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    optimizer.step()


def measure(seed: int) -> list[Row]:
    """All rows of one family of models."""
    images, labels = _digits()
    zero, own, test = pretrained(seed)
    g, rng = torch.Generator().manual_seed(seed), np.random.default_rng([seed, 49])
    data = [(moved(images[own[:EXAMPLES]]).flatten(1), labels[own[:EXAMPLES]])]
    shifted = [(noisy(images[test], g), labels[test]), (noisy(moved(images[test]), g, 0.45), labels[test])]
    held = moved(images[test]).flatten(1)
    rows, gains = [Row(ID, "pre-trained", accuracy(zero, held, labels[test]))], []
    sharp: dict[str, list[float]] = {ALL: [], STRAGGLERS: [], CHANCE: []}
    for rate in RATES:
        net, where = tuned(zero, own, rate, seed), f"rate {rate:g}"
        rows.append(Row(ID, TUNED, accuracy(net, held, labels[test]), where))
        named = landscape.straggler_layers(zero, net, data, rule="topk", k=2).stragglers
        others = [layer for layer in landscape.weight_layers(net) if layer not in named]
        control = [others[i] for i in rng.permutation(len(others))[:2]]
        half = landscape.layerwise_sharpness(landscape.interpolate_weights(zero, net, 0.5), data, rho=RHO, steps=ASCENT)
        for name, value in ((ALL, float(half.whole or 0)), (STRAGGLERS, half.mean(named)), (CHANCE, rng.random())):
            sharp[name].append(value)
            rows.append(Row(SHARPNESS, name, value, where))
        thinned, other = (landscape.keep_largest_updates(zero, net, layers) for layers in (named, control))
        for name, model in ((PLAIN, net), (THINNED, thinned), (CONTROL, other)):
            curve = landscape.interpolation_curve(zero, model, shifted)
            between = curve.quality("data")[1:-1]
            rows += [Row(OOD, name, float(between.max()), where), Row(HALF, name, float(between[4]), where)]
            rows.append(Row(GAIN, name, curve.gain("data"), where))
            gains += [rows[-1].value] if name == PLAIN else []
    return rows + [Row(AGREEMENT, name, -float(kendalltau(values, gains)[0])) for name, values in sharp.items()]


def draw(table: Table, figure: Figure) -> None:
    """How well flatness says the gain, and what thinning stragglers changes in the mean of the rates: a dot a seed."""
    (first, *others), places = figure.subplots(1, 3), [f"rate {rate:g}" for rate in RATES]
    dots(first, table, AGREEMENT, (ALL, STRAGGLERS, CHANCE))
    first.set(title="Does flatness say the gain?", ylabel="minus Kendall's tau over a family")
    for ax, metric in zip(others, (GAIN, HALF), strict=True):
        values = {n: [table.values(metric, n, where) for where in places] for n in (PLAIN, THINNED, CONTROL)}
        minus = {name: np.mean(np.subtract(values[THINNED], values[name]), axis=0) for name in (PLAIN, CONTROL)}
        rows = [Row(metric, name, value, seed=i) for name in minus for i, value in enumerate(minus[name])]
        dots(ax, Table(rows), metric, (PLAIN, CONTROL))
        ax.set(title=metric.capitalize(), ylabel="stragglers thinned, minus the other")
    for ax in (first, *others):
        ax.axhline(0, color="0.3", linewidth=1)
        ax.tick_params(axis="x", labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(30, 42), registered="3b028b4cc28f")
