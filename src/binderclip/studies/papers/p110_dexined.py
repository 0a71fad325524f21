"""Do DexiNed's skips bring edges into its deep blocks, where they are lost without them?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.data import kaleidoshapes
from binderclip.studies.harness import Row, declared_study, dot_panels
from binderclip.vision import DexiNed, sobel

FULL, AROUND, INTO, NEITHER = "DexiNed", "without skips around", "without skips into", "without both"
SOBEL = "gradients in the cell"
REMOVED = {
    FULL: (),
    AROUND: ("side_1", "side_2", "side_3", "side_4"),
    INTO: ("pre_dense_2", "pre_dense_3", "pre_dense_4", "pre_dense_5", "pre_dense_6"),
}
REMOVED[NEITHER] = REMOVED[AROUND] + REMOVED[INTO]
METHODS = tuple(REMOVED)
METRIC = "R2 of a linear read-out of the edges in a cell, other pictures"
BLOCKS = {"block 3": 4, "block 4": 8, "block 5": 16, "block 6": 16}
WIDTH, TRAIN, TEST, SIDE, NOISE, PENALTY = 4, 96, 48, 64, 0.05, 0.1


class Nothing(nn.Module):
    """A skip that is not there."""

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(())


def network_without(removed: tuple[str, ...], seed: int) -> DexiNed:
    """The network before its first step, normalised by its batch as in training; skips taken out."""
    torch.manual_seed(seed)
    network = DexiNed(WIDTH)
    for name in removed:
        setattr(network, name, Nothing())
    return network


def read_out(features: Tensor, target: Tensor) -> float:
    """R2 on the last `TEST` pictures of a ridge regression on the others; cells [N, C, h, w] and [N, h, w]."""
    x, y = features.movedim(1, -1).double(), target.double()
    (x, held_x), (y, held_y) = (part.split([TRAIN, TEST]) for part in (x, y))
    x, held_x = x.flatten(0, 2), held_x.flatten(0, 2)
    y, held_y = y.flatten(), held_y.flatten()
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    x, held_x = (x - mean) / deviation, (held_x - mean) / deviation
    gram = x.T @ x / len(x) + PENALTY * torch.eye(x.shape[1], dtype=x.dtype)
    weight = torch.linalg.solve(gram, x.T @ (y - y.mean()) / len(x))
    error = (held_y - y.mean() - held_x @ weight).square().mean()
    return float(1 - error / held_y.var(correction=0))


@torch.no_grad()
def measure(seed: int) -> list[Row]:
    """All rows of one seed: weights and pictures of its own, the same for all networks."""
    shapes = kaleidoshapes(seed, TRAIN + TEST, size=(SIDE, SIDE), shapes=(3, 8))
    images = shapes.noisy((NOISE, NOISE), generator=torch.Generator().manual_seed(seed))
    density = {side: F.avg_pool2d(shapes.edges[:, None].float(), side)[:, 0] for side in set(BLOCKS.values())}
    rows = []
    for method, removed in REMOVED.items():
        network = network_without(removed, seed)
        maps = dict(zip(("block 1", "block 2", *BLOCKS), network.blocks(images), strict=True))
        rows += [Row(METRIC, method, read_out(maps[name], density[side]), name) for name, side in BLOCKS.items()]
    slopes = sobel(images).square().sum(1, keepdim=True).sqrt()
    for name, side in BLOCKS.items():
        cells = torch.cat([F.avg_pool2d(slopes, side), F.max_pool2d(slopes, side)], dim=1)
        rows.append(Row(METRIC, SOBEL, read_out(cells, density[side]), name))
    return rows


PANELS = dot_panels(*((METRIC, (*METHODS, SOBEL), name) for name in BLOCKS), rotation=60)
STUDY = declared_study(__name__, measure, draw=PANELS, seeds=range(10, 22), registered="e30dc9f0d6a1")
