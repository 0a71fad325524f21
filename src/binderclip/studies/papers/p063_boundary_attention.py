"""Do junctions that are fitted to patches and averaged find faint boundaries under noise that gradients miss?"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from scipy.ndimage import gaussian_filter, gaussian_gradient_magnitude
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import KaleidoShapes, kaleidoshapes
from binderclip.evaluate import edge_f_measure
from binderclip.studies.harness import Row, Table, declared_study, dot_panels, random_rows
from binderclip.vision import BoundaryMaps, JunctionField, render_boundaries, thin_edges

FIELD, CLASSICAL, FINE = "field of junctions", "blur of the best scale", "blur of the finest scale"
METHODS = (FIELD, CLASSICAL, FINE)
ODS, PSNR, ERROR = "ODS F of boundaries", "PSNR of the smoothed picture, dB", "largest error of exact junctions"
EXACT = (PICTURE, DISTANCE) = ("the picture", "its distances, pixels")
PICTURES, SIDE, NOISE, BANK, DELTA = 8, 40, (0.3, 0.8), 150, 0.02
PATCHES, SCALES, TOLERANCE, LEVELS = (7, 11, 17), (0.7, 1.0, 1.5, 2.0, 3.0), 1.5, 15


@lru_cache(maxsize=1)
def exact_errors() -> tuple[float, float]:
    """What the exact junctions of a picture of three sectors leave over, of its colours and of its distances."""
    size, patch, place = 21, 7, torch.tensor([9.3, 10.6], dtype=torch.float64)
    openings = torch.tensor([2.0, 1.7, 2 * math.pi - 3.7], dtype=torch.float64)
    at = torch.arange(size, dtype=torch.float64)
    angle = (torch.atan2(at[:, None] - place[1], at - place[0]) - 0.5) % (2 * math.pi)
    colours = torch.tensor([[0.1, 0.9, 0.4], [0.8, 0.2, 0.6], [0.3, 0.5, 0.7]], dtype=torch.float64)
    images = colours[torch.bucketize(angle, openings.cumsum(0)[:2])].permute(2, 0, 1)[None]
    vertex = (place[:, None, None] - torch.stack(torch.meshgrid(*[at[3:-3]] * 2, indexing="xy")))[None] / 3
    wide = openings[None, :, None, None].expand(1, 3, *vertex.shape[2:])
    maps = render_boundaries(JunctionField.of_angles(0 * vertex[:, 0] + 0.5, wide, vertex), images, patch, eta=1e-12)
    rays, starts = torch.arange(0, 30, 1e-2, dtype=torch.float64), 0.5 + openings.cumsum(0)
    x, y = (place[k] + rays * f(starts)[:, None] for k, f in enumerate((torch.cos, torch.sin)))
    grid = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1).reshape(-1, 2)
    nearest = torch.cdist(grid, torch.stack([x.flatten(), y.flatten()], dim=1)).amin(1).reshape(size, size)
    return float((maps.features - images).abs().max()), float((maps.distance[0] - nearest).abs().max())


@lru_cache(maxsize=1)
def bank() -> JunctionField:
    """Junctions to choose from, as many with a straight boundary, a corner and three wedges."""
    g = torch.Generator().manual_seed(0)
    angle = 2 * math.pi * torch.rand(1, 1, BANK, generator=g)
    openings = torch.rand(1, 3, 1, BANK, generator=g) + 0.2
    kind = torch.arange(BANK) % 3
    openings[:, 2, :, kind < 2] = 1e-6  # two wedges
    openings[:, :2, :, kind == 0] = 1.0  # of half a turn each
    return JunctionField.of_angles(angle, openings, 1.4 * torch.rand(1, 2, 1, BANK, generator=g) - 0.7)


def fitted(images: Tensor, patch: int) -> BoundaryMaps:
    """For each patch the junction of the bank whose wedges, each in its mean colour, leave the least over."""
    choices = bank()
    wedges = choices.wedges(patch)[0, ..., 0, :].permute(3, 0, 1, 2)  # (K, 3, R, R)
    sums = F.conv2d(images.flatten(0, 1)[:, None], wedges.flatten(0, 1)[:, None])
    sums = sums.unflatten(1, (BANK, 3)).unflatten(0, images.shape[:2])  # (B, C, K, 3, h, w)
    # |I - sum_k w_k f_k|^2 = |I|^2 - sum_k (sum w_k I)^2 / sum w_k where wedges are hard.
    explained = (sums.square() / (wedges.sum((2, 3))[..., None, None] + 1e-3)).sum((1, 3))  # (B, K, h, w)
    best = explained.argmax(1)  # (B, h, w)
    parts = (part[0, :, 0][:, best].transpose(0, 1) for part in (choices.heading, choices.openings, choices.vertex))
    return render_boundaries(JunctionField(*parts), images, patch, delta=DELTA)


def blurred(images: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Length of the gradient at a scale, the largest 1, and the pictures blurred at it."""
    lengths = [[gaussian_gradient_magnitude(c, scale) for c in image] for image in images.numpy()]
    edges = torch.tensor(np.linalg.norm(lengths, axis=1)).float()
    return edges / edges.max(), torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, scale, scale)))


def f_of(maps: Tensor, shapes: KaleidoShapes) -> float:
    """ODS of thinned maps."""
    maps = thin_edges(maps, border=0).clamp(0, 1)
    return edge_f_measure(maps, shapes.edges, tolerance=TOLERANCE, unit="pixels", thresholds=LEVELS).ods


def psnr(smooth: Tensor, shapes: KaleidoShapes) -> float:  # the mean over pictures
    return float(-10 * (smooth - shapes.images).square().mean((1, 2, 3)).log10().mean())


def scores(images: Tensor, shapes: KaleidoShapes) -> dict[str, list[tuple[float, float]]]:
    """(ODS, PSNR) of every method with each of its patches or scales."""
    fields = [(maps.boundary, maps.features) for maps in (fitted(images, patch) for patch in PATCHES)]
    blurs = [blurred(images, scale) for scale in SCALES]
    tried = {FIELD: fields, CLASSICAL: blurs, FINE: blurs[:1]}
    return {name: [(f_of(maps[0], shapes), psnr(maps[1], shapes)) for maps in some] for name, some in tried.items()}


def measure(seed: int) -> list[Row]:
    """All rows of one seed; patch and scales are the best on other pictures, for edges and for smoothing apart."""
    g = torch.Generator().manual_seed(seed)
    sets = [kaleidoshapes(2 * seed + part, PICTURES, size=(SIDE, SIDE), shapes=(3, 6)) for part in (0, 1)]
    tried, judged = (scores(shapes.noisy(NOISE, generator=g), shapes) for shapes in sets)
    rows = [Row(ERROR, name, value) for name, value in zip(EXACT, exact_errors(), strict=True)]
    for i, metric in enumerate((ODS, PSNR)):
        for name in METHODS:
            values = [pair[i] for pair in tried[name]]
            rows.append(Row(metric, name, judged[name][values.index(max(values))][i]))
    return rows


def exact(table: Table) -> tuple[bool, str]:
    """Whether exact junctions leave nothing over."""
    worst = {name: float(table.values(ERROR, name).max()) for name in EXACT}
    return worst[PICTURE] < 1e-4 and worst[DISTANCE] < 1e-2, "; ".join(f"{n}: {v:.0e}" for n, v in worst.items())


def null(seed: int) -> list[Row]:  # random numbers, and junctions that miss
    return [Row(ERROR, name, 0.5) for name in EXACT] + random_rows(STUDY.criteria, seed)


PANELS = dot_panels((ODS, METHODS), (PSNR, METHODS), rotation=20)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 20), null=null, registered="41abafdb30ed")
