"""Does a fixed point find the clips of least error, and do networks of few bits train better behind them?"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import laplace, norm, uniform
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from binderclip.compress import FakeQuant, octav_clip
from binderclip.studies.harness import Row, Table, accuracy, declared_study
from binderclip.studies.protocols.training.spike import BATCH, digits

STEPS, RATE, MOMENTUM, WIDTHS, BITS = 300, 3e-3, 0.1, (64, 64, 64, 10), (2, 3, 4, 6, 8)
DENSITIES: dict[str, Any] = {"normal": norm, "Laplace": laplace, "uniform": uniform(-1, 2)}
TAIL: dict[str, Any] = {  # E[(|x| - s)^2; |x| > s] in closed form
    "normal": lambda s: 2 * ((1 + s * s) * norm.sf(s) - s * norm.pdf(s)),
    "Laplace": lambda s: 2 * math.exp(-s),
    "uniform": lambda s: max(1 - s, 0) ** 3 / 3,
}
METHODS: dict[str, dict[str, Any]] = {
    "largest magnitude": {"clip": "max", "grad": "ste"},
    "OCTAV, straight-through": {"clip": "octav", "grad": "ste"},
    "OCTAV, clipped straight-through": {"clip": "octav", "grad": "clipped_ste"},
    "OCTAV, magnitude-aware": {"clip": "octav", "grad": "mad"},
}
RIVAL, DEVIATIONS = "1.69 deviations", 1.69
ERROR, ACCURACY = "error of the clip over the least", "test accuracy"


def error(density: str, clip: float, bits: int) -> float:
    """J of the paper: noise of step^2 / 12 within the clip, and what clipping takes."""
    within = 1 - 2 * DENSITIES[density].sf(clip)
    return 4.0**-bits / 3 * clip**2 * within + TAIL[density](clip)


@lru_cache(maxsize=1)
def errors() -> dict[tuple[str, int], float]:
    """J of OCTAV's clip on 200,001 quantiles of each density over the least J."""
    result = {}
    for name, density in DENSITIES.items():
        values = torch.from_numpy(density.ppf((np.arange(200_001) + 0.5) / 200_001))
        for bits in BITS:
            at = partial(error, name, bits=bits)
            least = minimize_scalar(at, bounds=(0.05, float(values.max())), method="bounded")
            result[name, bits] = at(float(octav_clip(values, bits))) / float(least.fun)
    return result


class DeviationClip(FakeQuant):
    """The rival: a clip at so many standard deviations, the best one for 2 bits and normal values."""

    def __init__(self, bits: int, **settings: Any) -> None:
        super().__init__(bits, grad="mad", **settings)
        self.rule = self._at_deviations

    def _at_deviations(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        clip = DEVIATIONS * rows.square().mean(dim=1, keepdim=True).sqrt() + 1e-12
        return -clip, clip


def network(method: str, bits: int, seed: int) -> nn.Sequential:
    """A perceptron of quantised weights, inputs and activations; the latter have a running clip in evaluation."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    quantiser: Any = DeviationClip if method == RIVAL else partial(FakeQuant, **METHODS[method])
    for number, (before, after) in enumerate(pairwise(WIDTHS)):
        linear = nn.Linear(before, after)
        parametrize.register_parametrization(linear, "weight", quantiser(bits))
        activations = quantiser(bits, signed=number == 0, momentum=MOMENTUM)
        layers += [*([nn.ReLU()] if number else []), activations, linear]
    return nn.Sequential(*layers)


def train(method: str, bits: int, seed: int) -> nn.Sequential:
    """The network after `STEPS` of Adam."""
    x, y, model = *digits()[:2], network(method, bits, seed)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    for batch in torch.randint(len(x), (STEPS, BATCH), generator=torch.Generator().manual_seed(seed)):
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return model.eval()


def measure(seed: int) -> list[Row]:
    """All rows of one seed; those of the densities are the same in each."""
    rows = [Row(ERROR, density, ratio, f"{bits} bits") for (density, bits), ratio in errors().items()]
    _, _, x, y = digits()
    methods = [*METHODS, RIVAL]
    return rows + [Row(ACCURACY, name, accuracy(train(name, 2, seed), x, y), "2 bits") for name in methods]


def random_numbers(seed: int) -> list[Row]:
    """The null: accuracies, and errors of up to twice the least, at random."""
    draw = np.random.default_rng([seed, 36]).uniform
    rows = [Row(ERROR, density, draw(1, 2), f"{bits} bits") for density in DENSITIES for bits in BITS]
    return rows + [Row(ACCURACY, method, draw(), "2 bits") for method in [*METHODS, RIVAL]]


def within(most: float, *densities: str) -> Any:
    """A test that the clip's error is at most so many times the least for every number of bits."""

    def test(table: Table) -> tuple[bool, str]:
        ratio = max(table.values(ERROR, name, f"{bits} bits").max() for name in densities for bits in BITS)
        return ratio <= most, f"at most {ratio:.4f} times the least"

    return test


STUDY = declared_study(__name__, measure, null=random_numbers, seeds=range(60, 68), registered="2855792a3021")
