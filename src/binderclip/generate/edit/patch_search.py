"""Nearest known patches of the patches over a hole, and what they say of its pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.generate.biharmonic import biharmonic_fill

TEXTURE = 50.0
"""Weight of the squared differences of texture against those of colour, both in [0, 1] (Newson et al., 2014)."""
QUANTILE = 0.75
"""Of the distances of the patches over a pixel: twice this is what a weight of 1/e lies at."""
JUMPS = 4, 2, 1
"""Pixels to the neighbours whose offsets are tried."""
CHUNK = 8192
"""Patches compared at once: what they take stays in the cache."""
GUESSED = 0.05
"""Weight of the smoothest continuation against what is known, where only part of a patch is known."""
EPS = 1e-8


@dataclass
class PatchLevel:
    """A size of the picture.

    Attributes:
        values: three of colour and two of texture; those inside of the hole are the present guess.
        hole: what is filled.
        targets: places, row by row, whose patches reach into the hole.
        sources: places of whose patches all is known.
    """

    values: Float[Tensor, "5 H W"]
    hole: Bool[Tensor, "H W"]
    targets: Int[Tensor, " T"]
    sources: Bool[Tensor, "H W"]


def search_patches(
    level: PatchLevel, nearest: Int[Tensor, " T"], patch: int, generator: torch.Generator
) -> tuple[Int[Tensor, " T"], Float[Tensor, " T"]]:
    """Nearer patches: those beside the neighbours' nearest ones, and some at random around the present ones.

    Args:
        level: the picture and the present guess.
        nearest: the present source of each target. patch: side in pixels.
        generator: of the random ones.

    Returns:
        The sources, and the mean squared differences of the patches.
    """
    height, width = level.hole.shape
    scaled = torch.cat([level.values[:3], level.values[3:] * TEXTURE**0.5])
    padded = F.pad(scaled[None], (patch // 2,) * 4, mode="replicate")
    patches = F.unfold(padded, patch)[0].T.contiguous()  # (H W, D), D = 5 patch^2
    own = patches[level.targets]  # (T, D)
    nearest = nearest.clone()
    distances = _distances(patches, own, nearest)
    sources = level.sources.flatten()
    number = torch.full((height * width,), -1)
    number[level.targets] = torch.arange(len(level.targets))
    y, x = level.targets // width, level.targets % width

    def attempt(row: Tensor, column: Tensor, usable: Tensor) -> None:
        usable = usable & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        candidate = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
        rows = (usable & sources[candidate] & (candidate != nearest)).nonzero()[:, 0]
        new = _distances(patches, own, candidate[rows], rows)
        better = new < distances[rows]
        nearest[rows[better]] = candidate[rows[better]]
        distances[rows[better]] = new[better]

    for jump in JUMPS:
        for down, right in ((jump, 0), (-jump, 0), (0, jump), (0, -jump)):
            beside_y, beside_x = y + down, x + right
            within = (beside_y >= 0) & (beside_y < height) & (beside_x >= 0) & (beside_x < width)
            index = number[beside_y.clamp(0, height - 1) * width + beside_x.clamp(0, width - 1)]
            source = nearest[index.clamp(min=0)]
            attempt(source // width - down, source % width - right, within & (index >= 0))
    radius = max(height, width)
    while radius >= 1:
        row, column = (torch.randint(-radius, radius + 1, y.shape, generator=generator) for _ in range(2))
        attempt(nearest // width + row, nearest % width + column, torch.ones_like(y, dtype=torch.bool))
        radius //= 2
    return nearest, distances


def _distances(
    patches: Float[Tensor, "P D"],
    own: Float[Tensor, "T D"],
    nearest: Int[Tensor, " N"],
    rows: Int[Tensor, " N"] | None = None,
) -> Float[Tensor, " N"]:
    """Mean squared differences of patches, of all rows of `own` or of those that are named."""
    result = torch.empty(len(nearest))
    for begin in range(0, len(nearest), CHUNK):
        part = slice(begin, begin + CHUNK)
        mine = own[part] if rows is None else own[rows[part]]
        result[part] = (patches[nearest[part]] - mine).square().mean(1)
    return result


def vote_pixels(
    level: PatchLevel, nearest: Int[Tensor, " T"], distances: Float[Tensor, " T"], patch: int
) -> Float[Tensor, "2 3 N"]:
    """Make each hidden pixel the mean of what the patches over it say, nearer ones counting more.

    Returns:
        The differences of colour to the pixels below and to the right, by the same patches.
    """
    height, width = level.hole.shape
    reach = patch // 2
    source_of, far_of = torch.full((height * width,), -1), torch.zeros(height * width)
    source_of[level.targets] = nearest
    far_of[level.targets] = distances
    flat = level.values.reshape(5, -1)
    places = level.hole.flatten().nonzero()[:, 0]
    guess, slopes = torch.empty(5, len(places)), torch.zeros(2, 3, len(places))
    span = torch.arange(-reach, reach + 1)
    down, right = (grid.flatten() for grid in torch.meshgrid(span, span, indexing="ij"))  # (K,)
    for begin in range(0, len(places), CHUNK):
        part = slice(begin, begin + CHUNK)
        y, x = places[part, None] // width - down, places[part, None] % width - right  # (n, K): middles of patches
        within = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        middle = y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
        source = torch.where(within, source_of[middle] + down * width + right, 0)
        far = torch.where(within, far_of[middle], torch.inf)
        rank = (QUANTILE * (within.sum(1, keepdim=True) - 1)).long()
        scale = far.sort(1).values.gather(1, rank).clamp(min=EPS)
        weight = torch.exp(-far / (2 * scale)) * within
        colours = flat[:, source]  # (5, n, K)
        guess[:, part] = (colours * weight).sum(2) / weight.sum(1)
        # a patch says nothing of what is below its last row, or right of its last column
        for axis, (step, inner) in enumerate(((width, down < reach), (1, right < reach))):
            beside = flat[:3, torch.where(within & inner, source + step, 0)]
            inner_weight = weight * inner
            total = inner_weight.sum(1).clamp(min=EPS)
            slopes[axis, :, part] = ((beside - colours[:3]) * inner_weight).sum(2) / total
    level.values.view(5, -1)[:, places] = guess
    return slopes


def peel(level: PatchLevel, patch: int) -> Int[Tensor, " T"]:
    """Fill the hole from its border inwards, every pixel by the nearest of all patches, and say whose these are.

    Of the patch around a hidden pixel what is known or filled is compared, and the rest a little with the smoothest
    continuation, so that plain grounds go on as they are. For small pictures: all pairs are compared.

    Returns:
        The source of each target.
    """
    height, width = level.hole.shape
    usable = level.sources.flatten().nonzero()[:, 0]  # (S,)
    hidden = level.hole.clone()
    level.values = biharmonic_fill(level.values[None], level.hole[None, None].float())[0].clamp(0, 1)
    nearest_of = torch.full((height * width,), -1)
    scale = torch.tensor([1.0, 1, 1, TEXTURE**0.5, TEXTURE**0.5])[:, None, None]
    while bool(hidden.any()):
        known = F.pad((~hidden).float()[None, None], (1,) * 4)
        layer = hidden & (F.max_pool2d(known, 3, 1)[0, 0] > 0)
        places = layer.flatten().nonzero()[:, 0]
        nearest_of[places] = _nearest_of_all(level.values * scale, ~hidden, places, usable, patch)
        level.values.view(5, -1)[:, places] = level.values.reshape(5, -1)[:, nearest_of[places]]
        hidden &= ~layer
    rest = level.targets[nearest_of[level.targets] < 0]
    everything = torch.ones_like(level.hole)
    nearest_of[rest] = _nearest_of_all(level.values * scale, everything, rest, usable, patch)
    return nearest_of[level.targets]


def _nearest_of_all(
    values: Float[Tensor, "5 H W"], known: Bool[Tensor, "H W"], places: Int[Tensor, " N"], usable: Int[Tensor, " S"],
    patch: int,
) -> Int[Tensor, " N"]:  # fmt: skip
    """The sources whose patches differ least from those at some places, which count where they are known."""
    margin = (patch // 2,) * 4
    patches = F.unfold(F.pad(values[None], margin, mode="replicate"), patch)[0].T  # (H W, D)
    trust = known.float().clamp(min=GUESSED)[None, None]
    weights = F.unfold(F.pad(trust, margin), patch)[0].T  # (H W, K)
    source = patches[usable]
    squares = source.square().T  # (D, S)
    nearest = torch.empty(len(places), dtype=torch.long)
    for begin in range(0, len(places), 1024):
        part = slice(begin, begin + 1024)
        weight = weights[places[part]].repeat(1, 5)  # channels are the slower axis of an unfolded patch
        # sum_d w_d (s_d - t_d)^2 without what all sources share
        distance = weight @ squares - 2 * (weight * patches[places[part]]) @ source.T
        nearest[part] = usable[distance.argmin(1)]
    return nearest
