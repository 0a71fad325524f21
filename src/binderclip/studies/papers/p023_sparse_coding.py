"""Do penalties beyond the absolute value code patches of photographs with fewer coefficients at the same error?"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.data import load_data
from binderclip.studies.harness import Figure, Row, Table, declared_study
from binderclip.vision import SparseCoding, receptive_field_stats, sample_patches, whiten

SIDE, UNITS, BATCH, BATCHES, CODED = 10, 100, 100, 150, 200
LEARNED_AT, RATE = 0.6, 5e-3
WEIGHTS = {
    "l1": (0.6, 0.85, 1.1, 1.4, 1.8), "l0": (0.2, 0.3, 0.45, 0.6, 0.8, 1.1),
    "lhalf": (0.35, 0.5, 0.65, 0.85, 1.1, 1.4),
    "cel0": (0.6, 1.0, 1.6, 2.4, 3.5),
}  # fmt: skip
"""Chosen so that each penalty's errors lie on both sides of ERROR, the lowest after seed 22, where l0's did not."""
ERROR = 0.2
ACTIVE, ORIENTED, FITTED = "active coefficients at a relative error of 0.2", "oriented units", "well-fitted units"
LEARNED, START = "learned by l1", "random columns"


@lru_cache(1)
def photographs() -> list[Float[Tensor, "H W"]]:
    """Whitened grey photographs."""
    pictures = [np.asarray(sample.image.convert("L"), dtype=np.float32) / 255 for sample in load_data("photographs")]
    return [whiten(torch.from_numpy(picture)) for picture in pictures if min(picture.shape) >= 4 * SIDE]


def patches(count: int, seed: int) -> Float[Tensor, "B N"]:
    """As many from each photograph, in random order."""
    images = photographs()
    each = -(-count // len(images))
    rows = torch.cat([sample_patches(image, each, SIDE, seed=seed + place) for place, image in enumerate(images)])
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:count]]


def curve(penalty: str, dictionary: Tensor, data: Tensor) -> tuple[list[float], list[float]]:
    """Relative errors and fractions of active coefficients over the penalty's weights."""
    errors, active = [], []
    for lam in WEIGHTS[penalty]:
        model = SparseCoding(SIDE**2, UNITS, penalty, lam=lam, tolerance=1e-3, iterations=2000)  # type: ignore[arg-type]
        model.dictionary = dictionary
        coded = model.encode(data)
        errors.append(float((data - model.decode(coded.codes)).square().sum() / data.square().sum()))
        active.append(coded.active)
    return errors, active


@lru_cache(1)
def measured(seed: int) -> tuple[Tensor, Tensor, dict[str, tuple[list[float], list[float]]]]:
    """First and learned dictionary of a seed, and every penalty's curve on other patches."""
    model = SparseCoding(SIDE**2, UNITS, "l1", lam=LEARNED_AT, seed=seed)
    first = model.dictionary
    model.fit(patches(BATCH * BATCHES, 1000 * seed).split(BATCH), rate=RATE)
    data = patches(CODED, 1000 * seed + 500)
    return first, model.dictionary, {name: curve(name, model.dictionary, data) for name in WEIGHTS}


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    first, dictionary, curves = measured(seed)
    rows = [
        Row(ACTIVE, name, float(np.interp(ERROR, errors, active, left=np.nan, right=np.nan)))
        for name, (errors, active) in curves.items()
    ]
    for name, columns in ((LEARNED, dictionary), (START, first)):
        rows.append(Row(ORIENTED, name, float(receptive_field_stats(columns).oriented.double().mean())))
    fitted = receptive_field_stats(dictionary[:, ::2], gabor=True).well_fitted
    return [*rows, Row(FITTED, LEARNED, float(fitted.double().mean()))]


def draw(table: Table, figure: Figure) -> None:
    """Active coefficients against the error, and the learned units."""
    _, dictionary, curves = measured(STUDY.seeds[0])
    left, right = figure.subplots(1, 2)
    for name, (errors, active) in curves.items():
        left.plot(errors, active, "o-", label=name)
    left.set(title="Codes of whitened patches", xlabel="relative error", ylabel="active coefficients (fraction)")
    left.legend()
    grid = int(UNITS**0.5)
    fields = dictionary.T.reshape(grid, grid, SIDE, SIDE)
    fields = fields / fields.abs().amax((2, 3), keepdim=True)
    right.imshow(
        torch.nn.functional.pad(fields, (1, 1, 1, 1)).permute(0, 2, 1, 3).flatten(2).flatten(0, 1), cmap="gray"
    )
    right.set(title="Units learned by l1", xticks=[], yticks=[])
    right.grid(visible=False)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(30, 38), registered="d1480819f887")
