"""Do slices of a learned surface tell distributions apart with few projections, and lead samples faster to a target?"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.losses import (
    AugmentedSlicedWasserstein,
    GeneralizedSlicedWasserstein,
    MaxSlicedWasserstein,
    SlicedWasserstein,
)
from binderclip.studies.harness import Figure, Row, Table, declared_study, dots
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.training.selections import clip_art

WIDTH, COUNT, SHIFT, SLICES = 50, 256, 2.0, 10
DRAWS = 3
POINTS, STEPS, RATE, LOOKS = 200, 150, 0.02, 6
AUGMENTED, RANDOM_H, SLICED, MORE, MAX, CIRCLES = (
    "augmented", "augmented, h at random", "sliced", "sliced, 500 directions", "max-sliced", "on circles",
)  # fmt: skip
METHODS = (AUGMENTED, RANDOM_H, SLICED, MORE, MAX, CIRCLES)
FLOWING = (AUGMENTED, RANDOM_H, SLICED, CIRCLES)
RATIO, FLOW, END = "log ratio, other over same", "log W2, mean over the steps", "log W2 at the end"
GAP, RAW, MOVED = "pictures from texts", "as they are", "without their means"
TARGETS = ("25 Gaussians", "Swiss roll", "circle")


def distances(width: int, seed: int, *, cold: bool) -> dict[str, nn.Module]:
    """Each distance, with as many directions but for one.

    Args:
        width: of the samples.
        seed: of the directions and of h.
        cold: whether h has one call to learn in, and is linear; else it is an MLP that learns from call to call.
    """

    def drawn() -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    def augmented(steps: int) -> AugmentedSlicedWasserstein:
        rate, lam = (5e-3, 0.1) if cold else (1e-3, 0.5)
        return AugmentedSlicedWasserstein(
            width, "linear" if cold else "mlp", n_projections=SLICES, steps=steps, lr=rate, lam=lam, generator=drawn()
        )

    return {
        AUGMENTED: augmented(200 if cold else 5),
        RANDOM_H: augmented(0),
        SLICED: SlicedWasserstein(SLICES, generator=drawn()),
        MORE: SlicedWasserstein(500, generator=drawn()),
        MAX: MaxSlicedWasserstein(steps=200, lr=5e-3, generator=drawn()),
        CIRCLES: GeneralizedSlicedWasserstein(n_projections=SLICES, generator=drawn()),
    }


def target_points(name: str, rng: np.random.Generator) -> Float[Tensor, "P 2"]:
    """Samples of a distribution in the plane, about as wide as the normal one."""
    if name == "25 Gaussians":
        grid = rng.integers(-2, 3, (POINTS, 2))
        points = grid / 2 + 0.05 * rng.standard_normal((POINTS, 2))
    elif name == "circle":
        angle = rng.uniform(0, 2 * math.pi, POINTS)
        points = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.02 * rng.standard_normal((POINTS, 2))
    else:
        angle = 1.5 * math.pi * (1 + 2 * rng.uniform(size=POINTS))
        points = np.stack([angle * np.cos(angle), angle * np.sin(angle)], 1) / 10
    return torch.as_tensor(points, dtype=torch.float32)


def exact_w2(x: Float[Tensor, "P d"], y: Float[Tensor, "P d"]) -> float:
    """2-Wasserstein distance by assignment."""
    cost = torch.cdist(x.double(), y.double()).square().numpy()
    return float(np.sqrt(cost[linear_sum_assignment(cost)].mean()))


def flow(distance: nn.Module, start: Float[Tensor, "P 2"], target: Float[Tensor, "P 2"]) -> list[float]:
    """Exact distances on the way of samples that descend a sliced one."""
    x = start.clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=RATE)
    found = []
    for step in range(1, STEPS + 1):
        adam.zero_grad()
        distance(x, target).backward()
        adam.step()
        if step % (STEPS // LOOKS) == 0:
            found.append(exact_w2(x.detach(), target))
    return found


@lru_cache(maxsize=1)
@torch.no_grad()
def clouds() -> tuple[Float[Tensor, "N E"], Float[Tensor, "N E"]]:
    """Unit embeddings of held-out clip art and of its captions."""
    images, captions = clip_art("val+test")
    model = bundled()
    image, text = model.encode_image(images, normalize=True), model.encode_text(captions, normalize=True)
    return image.float(), text.float()


def measure(seed: int) -> list[Row]:
    """All rows of one seed."""
    generator = torch.Generator().manual_seed(seed)
    x, same, other = (torch.randn(COUNT, WIDTH, generator=generator) for _ in range(3))
    other[:, 0] += SHIFT
    rows = []
    for name in METHODS:
        near, far = (
            np.mean([_value(distances(WIDTH, 100 * seed + draw, cold=True)[name], x, y) for draw in range(DRAWS)])
            for y in (same, other)
        )
        rows.append(Row(RATIO, name, float(np.log(far / near))))
    for target in TARGETS:
        rng = np.random.default_rng([seed, 79])
        start = torch.as_tensor(rng.standard_normal((POINTS, 2)), dtype=torch.float32)
        points = target_points(target, rng)
        ways = distances(2, seed, cold=False)
        for name in FLOWING:
            way = np.log(flow(ways[name], start, points))
            rows += [Row(FLOW, name, float(way.mean()), target), Row(END, name, float(way[-1]), target)]
    image, text = (each[torch.randperm(len(each), generator=generator)[:COUNT]] for each in clouds())
    moved = [F.normalize(each - each.mean(0), dim=1) for each in (image, text)]
    for setting, (a, b) in ((RAW, (image, text)), (MOVED, moved)):
        rows.append(Row(GAP, AUGMENTED, _value(distances(a.shape[1], seed, cold=True)[AUGMENTED], a, b), setting))
    return rows


def _value(distance: nn.Module, x: Tensor, y: Tensor) -> float:
    return float(distance(x, y).detach())


def draw(table: Table, figure: Figure) -> None:
    """How far each tells two distributions apart, and where its flows end."""
    left, *others = figure.subplots(1, 4)
    dots(left, table, RATIO, METHODS)
    left.set_title(RATIO, fontsize=9)
    for ax, target in zip(others, TARGETS, strict=True):
        dots(ax, table, FLOW, FLOWING, target)
        ax.set_title(f"{FLOW}:\n{target}", fontsize=8)
    for ax in (left, *others):
        ax.tick_params(axis="x", labelrotation=50, labelsize=7)


STUDY = declared_study(__name__, measure, draw=draw, seeds=range(10, 26), registered="2f2a5fbaf5df")
