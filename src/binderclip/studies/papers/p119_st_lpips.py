"""Does blurring wherever a perceptual distance subsamples keep its rankings under a shift, at no cost in judgement?"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.distortions.library import LEVELS, distort
from binderclip.quality import LPIPS, two_afc_score
from binderclip.quality.distance.two_afc import shift_flips
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.data.distorted_tiles import tiles

KINDS = ("gaussian_noise", "gaussian_blur", "jpeg", "darken", "contrast", "pixelate", "posterize", "desaturate")
SHIFTS = (1, 2, 3)
SETTINGS = tuple(f"{n} px" for n in SHIFTS)
SIDE, LEARN, TEST, NOISE = 48, 400, 150, 0.1
WIDTHS, STEPS, BATCH, RATE = (12, 24, 32, 24, 24), 60, 16, 1e-3
VANILLA, TOLERANT = "vanilla", "shift-tolerant"
PLAIN, BLURRED, SQUARES, RANDOM = "lite0, vanilla", "lite0, shift-tolerant", "squared differences", "random order"
METHODS = (VANILLA, TOLERANT, PLAIN, BLURRED, SQUARES, RANDOM)
FLIPS, AGREED = "share of rankings that flip", "2AFC score"


class Triplets(NamedTuple):
    """Pictures wider by the largest shift than what is looked at, and which is nearer."""

    reference: Float[Tensor, "N 3 s w"]
    first: Float[Tensor, "N 3 s w"]
    second: Float[Tensor, "N 3 s w"]
    preferred: Float[Tensor, "N"]


def triplets(sources: Float[Tensor, "n 3 S S"], count: int, seed: int, *, noise: float = 0.0) -> Triplets:
    """Crops of tiles, each with two distortions of different levels; the weaker one is nearer, but for the noise."""
    rng = np.random.default_rng([seed, 119])
    width = SIDE + max(SHIFTS)
    reference = torch.stack([_crop(sources[rng.integers(len(sources))], width, rng) for _ in range(count)])
    levels = np.stack([rng.permutation(LEVELS)[:2] + 1 for _ in range(count)])  # (N, 2)
    found = []
    for side in range(2):
        kinds, distorted = rng.integers(len(KINDS), size=count), reference.clone()
        for number, kind in enumerate(KINDS):
            rows = np.flatnonzero(kinds == number)
            if len(rows):
                distorted[rows] = distort(reference[rows], kind, levels[rows, side].tolist(), rows.tolist())
        found.append(distorted)
    second = (levels[:, 1] < levels[:, 0]) ^ (rng.random(count) < noise)
    return Triplets(reference, found[0], found[1], torch.from_numpy(second).float())


def _crop(tile: Float[Tensor, "3 S S"], width: int, rng: np.random.Generator) -> Float[Tensor, "3 s w"]:
    y, x = (int(rng.integers(tile.shape[1] - side + 1)) for side in (SIDE, width))
    return tile[:, y : y + SIDE, x : x + width]


def metrics(seed: int, learn: Triplets) -> dict[str, Any]:
    """Both networks from scratch on the same choices, both forms of `lite0`, and squared differences."""
    found: dict[str, Any] = {}
    reference, first, second = (part[..., :SIDE] for part in learn[:3])
    for variant in (VANILLA, TOLERANT):
        metric = LPIPS("alex", variant, widths=WIDTHS, seed=seed)  # type: ignore[arg-type]
        metric.fit_triplets(
            reference, first, second, learn.preferred, steps=STEPS, lr=RATE, batch_size=BATCH, seed=seed
        )  # fmt: skip
        found[variant] = metric
    found |= {name: LPIPS("lite0", name.split(", ")[1]) for name in (PLAIN, BLURRED)}  # type: ignore[arg-type]
    found[SQUARES] = lambda images, reference: F.mse_loss(images, reference, reduction="none").mean((1, 2, 3))
    generator = torch.Generator().manual_seed(seed)
    found[RANDOM] = lambda images, reference: torch.rand(len(images), generator=generator)
    return found


@torch.no_grad()
def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    sources, held = tiles(seed)
    learn, test = triplets(sources, LEARN, seed, noise=NOISE), triplets(held, TEST, seed + 1000)
    with torch.enable_grad():
        made = metrics(seed, learn)
    rows = []
    for name, metric in made.items():
        near, far = (metric(image[..., :SIDE], test.reference[..., :SIDE]) for image in (test.first, test.second))
        rows.append(Row(AGREED, name, float(two_afc_score(near, far, test.preferred))))
        flips = shift_flips(metric, test.reference, test.first, test.second, shifts=SHIFTS).float().mean(1)
        rows += [Row(FLIPS, name, float(value), place) for place, value in zip(SETTINGS, flips, strict=True)]
    return rows


def draw(table: Table, figure: Figure) -> None:
    """Flips by each shift, and agreement with the known order."""
    axes = figure.subplots(1, len(SETTINGS) + 1)
    for ax, setting in zip(axes, SETTINGS, strict=False):
        dots(ax, table, FLIPS, METHODS[:-1], setting)
        ax.set_title(f"flips, shifted by {setting}", fontsize=9)
        ax.set_ylim(0, 0.35)
    dots(axes[-1], table, AGREED, METHODS[:-1])
    axes[-1].set_title(AGREED, fontsize=9)
    for ax in axes:
        ax.set_xticks(range(len(METHODS) - 1), METHODS[:-1], fontsize=7, rotation=75)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(20, 44), registered="a04154b199ce")
