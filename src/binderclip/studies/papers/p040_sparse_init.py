"""Does the variance of deep networks of sparse activations diverge without a clip, and do they train with one?"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from binderclip.compress import CriticalInit, critical_init
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.training.deep_digits import LAYERS, train

WIDTH, DEPTH, INPUTS, START, SPARSITY, SLOPE = 700, 50, 8, 1.1, 0.85, 0.7
BELOW = 0.8
KINDS = {"relu": "shifted ReLU", "soft": "soft threshold"}
SPARSITIES = (0.7, 0.8, 0.85, 0.9)
PLAIN, CLIPPED, RIVAL = "no clip", "clipped", "no clip, smaller weights"
AWAY, ZEROS = "distance of the variance from its fixed point (logarithm)", "share of zeros"
MAP_SLOPE, MAP_CURVATURE = "slope of the variance map", "curvature of the variance map"
ACCURACY, TRAINED = "test accuracy", "share of zeros on test pictures, trained"
PLACES = [f"{setting}, sparsity {sparsity:g}" for setting in KINDS.values() for sparsity in SPARSITIES]


def initialisation(kind: Any, method: str, sparsity: float = SPARSITY) -> CriticalInit:
    """At the edge of chaos without a clip or with the clip that has the slope; the rival's gradients shrink."""
    init = critical_init(kind, sparsity, v_prime=SLOPE if method == CLIPPED else None)
    if method != RIVAL:
        return init
    moment = (init.variance - init.bias_variance) / init.weight_variance
    weights = BELOW * init.weight_variance
    return replace(init, weight_variance=weights, bias_variance=init.variance - weights * moment, slope=BELOW)


def variances(kind: str, method: str, seed: int) -> tuple[list[float], float]:
    """Mean square of the pre-activations behind each layer, and the share of zeros behind the last activation."""
    generator = torch.Generator().manual_seed(seed)
    init, layer = initialisation(kind, method), nn.Linear(WIDTH, WIDTH).double()
    activation = init.activation()
    x = torch.randn(INPUTS, WIDTH, generator=generator, dtype=torch.float64) * math.sqrt(START)
    values = []
    with torch.no_grad():
        for _ in range(DEPTH):
            init.apply_(layer, generator)
            active = activation(x)
            x = layer(active)
            values.append(float(x.square().mean()))
    return values, float((active == 0).double().mean())


def measure(seed: int) -> list[Row]:
    """All rows of one seed; those of the maps are the same in each."""
    rows = []
    for kind, setting in KINDS.items():
        for method in (PLAIN, CLIPPED):
            values, zeros = variances(kind, method, seed)
            rows += [Row(AWAY, method, abs(math.log(values[-1])), setting), Row(ZEROS, method, zeros, setting)]
            for sparsity in SPARSITIES:
                init, where = initialisation(kind, method, sparsity), f"{setting}, sparsity {sparsity:g}"
                rows += [Row(MAP_SLOPE, method, init.slope, where), Row(MAP_CURVATURE, method, init.curvature, where)]
        for method in (PLAIN, CLIPPED, RIVAL)[: 3 if kind == "relu" else 2]:
            right, zeros = train(initialisation(kind, method), seed)
            rows += [Row(ACCURACY, method, right, setting), Row(TRAINED, method, zeros, setting)]
    return rows


def random_numbers(seed: int) -> list[Row]:
    """The null: distances, slopes, curvatures, accuracies and shares at random."""
    draw = np.random.default_rng([seed, 40]).uniform
    names, methods = (AWAY, ZEROS, ACCURACY, TRAINED), (PLAIN, CLIPPED, RIVAL)
    rows = [Row(name, method, draw(), setting) for name in names for method in methods for setting in KINDS.values()]
    maps = ((MAP_SLOPE, 0.5, 1.5), (MAP_CURVATURE, -1, 1))
    return rows + [Row(n, m, draw(low, high), s) for n, low, high in maps for m in (PLAIN, CLIPPED) for s in PLACES]


def unstable(table: Table) -> tuple[bool, str]:
    """Whether every map without a clip has slope 1 and bends upwards, and every one with a clip a slope below 1."""
    plain = np.concatenate([table.values(MAP_SLOPE, PLAIN, place) for place in PLACES])
    bend = min(table.values(MAP_CURVATURE, PLAIN, place).min() for place in PLACES)
    clipped = max(table.values(MAP_SLOPE, CLIPPED, place).max() for place in PLACES)
    off = float(np.abs(plain - 1).max())
    return off < 1e-9 and bend > 0 and clipped < 1, f"slope 1 to {off:.0e}, curvature {bend:.2f}; clipped {clipped:.2f}"


def draw(table: Table, figure: Figure) -> None:
    """The variance from layer to layer, over the first seeds, and accuracies."""
    *panels, last = figure.subplots(1, 3)
    for ax, (kind, setting) in zip(panels, KINDS.items(), strict=True):
        for number, method in enumerate((PLAIN, CLIPPED)):
            for place, seed in enumerate(STUDY.seeds[:4]):
                ax.plot(variances(kind, method, seed)[0], color=f"C{number}", label=None if place else method)
        ax.axhline(1, color="0.5", linestyle=":", linewidth=1)
        title = f"{setting[0].upper()}{setting[1:]}, sparsity {SPARSITY:g}"
        ax.set(yscale="log", xlabel="layer", title=title, ylim=(0.3, 1e4))
        ax.legend()
    panels[0].set_ylabel("variance over its fixed point")
    dots(last, table, ACCURACY, (PLAIN, CLIPPED, RIVAL), KINDS["relu"])
    last.set_title(f"Test accuracy, {LAYERS} layers")
    last.tick_params(axis="x", labelrotation=20, labelsize=6)


STUDY = declared_study(
    __name__, measure, draw=draw, null=random_numbers, seeds=range(40, 48), registered="ad884ec4481c"
)
