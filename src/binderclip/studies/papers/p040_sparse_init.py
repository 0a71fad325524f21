"""Does the variance of deep networks of sparse activations diverge without a clip, and stay with one?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from binderclip.compress import CriticalInit, critical_init
from binderclip.studies.harness import Figure, Row, Table, declared_study

WIDTH, DEPTH, BATCH, START, SPARSITY, SLOPE = 700, 50, 8, 1.1, 0.85, 0.7
KINDS = {"relu": "shifted ReLU", "soft": "soft threshold"}
SPARSITIES = (0.7, 0.8, 0.85, 0.9)
PLAIN, CLIPPED = "no clip", "clipped"
AWAY, ZEROS = "distance of the variance from its fixed point (logarithm)", "share of zeros"
MAP_SLOPE, MAP_CURVATURE = "slope of the variance map", "curvature of the variance map"


def initialisation(kind: Any, method: str, sparsity: float = SPARSITY) -> CriticalInit:
    """At the edge of chaos, without a clip or with the clip that has the slope."""
    return critical_init(kind, sparsity, v_prime=SLOPE if method == CLIPPED else None)


def variances(kind: str, method: str, seed: int) -> tuple[list[float], float]:
    """Mean square of the pre-activations behind each layer, and the share of zeros behind the last activation."""
    generator = torch.Generator().manual_seed(seed)
    init, layer = initialisation(kind, method), nn.Linear(WIDTH, WIDTH).double()
    activation = init.activation()
    x = torch.randn(BATCH, WIDTH, generator=generator, dtype=torch.float64) * math.sqrt(START)
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
    return rows


def random_numbers(seed: int) -> list[Row]:
    """The null: distances, slopes and curvatures at random."""
    draw = np.random.default_rng([seed, 40]).uniform
    rows = [
        Row(name, method, draw(), s) for name in (AWAY, ZEROS) for method in (PLAIN, CLIPPED) for s in KINDS.values()
    ]
    places = [f"{setting}, sparsity {sparsity:g}" for setting in KINDS.values() for sparsity in SPARSITIES]
    maps = ((MAP_SLOPE, 0.5, 1.5), (MAP_CURVATURE, -1, 1))
    return rows + [Row(n, m, draw(low, high), s) for n, low, high in maps for m in (PLAIN, CLIPPED) for s in places]


def unstable(table: Table) -> tuple[bool, str]:
    """Whether every map without a clip has slope 1 and bends upwards, and every one with a clip a slope below 1."""
    places = [f"{setting}, sparsity {sparsity:g}" for setting in KINDS.values() for sparsity in SPARSITIES]
    plain = np.concatenate([table.values(MAP_SLOPE, PLAIN, place) for place in places])
    bend = min(table.values(MAP_CURVATURE, PLAIN, place).min() for place in places)
    clipped = max(table.values(MAP_SLOPE, CLIPPED, place).max() for place in places)
    off = float(np.abs(plain - 1).max())
    return off < 1e-9 and bend > 0 and clipped < 1, f"slope 1 to {off:.0e}, curvature {bend:.2f}; clipped {clipped:.2f}"


def draw(table: Table, figure: Figure) -> None:
    """The variance from layer to layer, over the first seeds."""
    for ax, (kind, setting) in zip(figure.subplots(1, 2, sharey=True), KINDS.items(), strict=True):
        for number, method in enumerate((PLAIN, CLIPPED)):
            for seed in STUDY.seeds[:4]:
                ax.plot(
                    variances(kind, method, seed)[0], color=f"C{number}", label=method if seed == STUDY.seeds[0] else ""
                )
        ax.axhline(1, color="0.5", linestyle=":", linewidth=1)
        ax.set(yscale="log", xlabel="layer", title=f"{setting.capitalize()}, sparsity {SPARSITY:g}", ylim=(0.3, 1e4))
        ax.legend()
    figure.axes[0].set_ylabel("variance over its fixed point")


STUDY = declared_study(
    __name__, measure, draw=draw, null=random_numbers, seeds=range(20, 32), registered="76293467af93"
)
