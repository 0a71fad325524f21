"""How far two pictures are the same one: the best of many crops of one laid over all of the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional
from torchvision.ops import roi_align

__all__ = ["AlikePairs", "alike_pairs", "crop_agreement", "crop_windows"]

COARSE, FINE = 16, 32
"""Sides at which all pairs are compared, and at which those that may be copies are looked at again."""
COARSE_LEAST = 0.8
"""Grey correlation below which a pair is not looked at again; of 2,766 distorted pictures of a pilot 10 fall below."""
BLOCKS = 8
"""Blocks a side in each of which the two pictures have to agree."""
SLACK = 4
"""A block may differ by so many times its even share of the contrast before the agreement is 0."""
COLOUR = 4
"""Weight of the blocks' mean differences, in which noise is averaged away: by it a green heart is no brown one."""
DETAIL = 0.5
"""Weight of the details' disagreement, 1 less their correlation: without it two landscapes, light above and dark below,
are one picture. Details of 1,189 pictures and of their copies correlate by .85 or more, of such landscapes by .21."""
LEAST_DETAIL = 0.02
"""Length of the details, of a picture of length 1, below which they are rounding."""
SIDES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""Sides of crops, each with each."""
KEPT, UNDER = 0.6, 0.07
"""Least share of the area that a crop keeps by default, and how far below it the nearest window may lie."""
STEPS = (0.025, 0.0125, 0.00625, 0.003125)
"""Steps of the search for the edges of a crop, in shares of the side."""
ROWS, PAIRS = 32, 256
"""Pictures whose crops are held at once, and pairs that are looked at again at once."""
FLAT = 1.0
"""Spread, in 8-bit levels, below which a picture has no pattern that could be compared."""


class AlikePairs(NamedTuple):
    """Pairs of pictures that agree.

    Attributes:
        first, second: (p,) their rows, first < second. agreement: (p,) from the least that was asked for to 1.
    """

    first: Int[np.ndarray, "p"]
    second: Int[np.ndarray, "p"]
    agreement: Float[np.ndarray, "p"]


def crop_windows(kept: float = KEPT) -> Float[np.ndarray, "w 4"]:
    """Crops (left, top, right, bottom) in shares of the side, the first of which is the whole.

    Sides are 0.05 or 0.1 apart and places at most 0.05, of which `STEPS` make up the rest.

    Args:
        kept: least share of the picture's area that a crop keeps, from 0.5 to 1.
    """
    fine = [(0.95, 0.95, 3), (0.9, 0.9, 4), (0.85, 0.85, 4)]
    sides = [(wide, high) for wide in SIDES for high in SIDES if (wide, high) != (1.0, 1.0)]
    places = {side: 1 + round((1 - side) / 0.05) for side in SIDES}
    windows = {(0.0, 0.0, 1.0, 1.0): None}
    for wide, high, across, down in [
        *((wide, high, count, count) for wide, high, count in fine),
        *((wide, high, places[wide], places[high]) for wide, high in sides),
    ]:
        if wide * high < kept - UNDER:
            continue
        for x in np.linspace(0, 1 - wide, across):
            for y in np.linspace(0, 1 - high, down):
                windows[float(x), float(y), float(x) + wide, float(y) + high] = None
    return np.array(list(windows), dtype=np.float32)


def alike_pairs(
    copies: UInt8[np.ndarray, "n s s 3"], *, least: float, kept: float = KEPT,
    progress: Callable[[int, int], object] | None = None,
) -> AlikePairs:  # fmt: skip
    """All pairs of pictures whose agreement is at least `least`.

    All crops of one picture are compared with all of every other one by grey correlation at 16 x 16, in blocks of one
    matrix product; pairs above 0.8 get `crop_agreement`. Pictures without a pattern agree with none.

    Args:
        copies: square RGB copies. least: least agreement, above 0.
        kept: as of `crop_windows`.
        progress: called with the number of pictures done and that of all, twice n.
    """
    count = len(copies)
    windows = torch.from_numpy(crop_windows(kept))
    patterned = copies.reshape(count, -1).std(1) >= FLAT if count else np.zeros(0, bool)
    grey = torch.from_numpy(copies).float().mean(3)  # (n, s, s)
    whole = _unit(functional.interpolate(grey[:, None], size=COARSE, mode="area").flatten(1))  # (n, 256)
    looks: list[tuple[np.ndarray, ...]] = []  # (of which a crop is taken, other, correlation, window)
    for start in range(0, count, ROWS):
        bank = _crops(grey[start : start + ROWS, None], windows, COARSE)  # (r * w, 1, 16, 16)
        product = (_unit(bank.flatten(1)) @ whole.T).view(-1, len(windows), count)  # (r, w, n)
        values, at = product.max(1)  # (r, n)
        rows, others = torch.nonzero(values >= COARSE_LEAST, as_tuple=True)
        look = (rows.numpy() + start, others.numpy(), values[rows, others].numpy(), at[rows, others].numpy())
        differ = (look[0] != look[1]) & patterned[look[0]] & patterned[look[1]]
        looks.append(tuple(column[differ] for column in look))
        if progress is not None:
            progress(min(start + ROWS, count), 2 * count)
    if not looks:
        return AlikePairs(np.empty(0, int), np.empty(0, int), np.empty(0))
    return _verified(copies, windows.numpy(), _better_direction(looks), least, progress)


def _better_direction(looks: list[tuple[np.ndarray, ...]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of each pair, seen as a crop of one and as a crop of the other, the better look: rows, others, windows."""
    rows, others, values, at = (np.concatenate(column) for column in zip(*looks, strict=True))
    low, high = np.minimum(rows, others), np.maximum(rows, others)
    order = np.lexsort((rows, -values, high, low))
    low, high = low[order], high[order]
    first = np.ones(len(order), bool)
    first[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    chosen = order[first]
    return rows[chosen], others[chosen], at[chosen]


def _verified(
    copies: UInt8[np.ndarray, "n s s 3"], windows: Float[np.ndarray, "w 4"],
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray], least: float, progress: Callable[[int, int], object] | None,
) -> AlikePairs:  # fmt: skip
    """Those of the pairs that agree, at a finer look."""
    rows, others, at = pairs
    count, values = len(copies), np.empty(len(rows))
    for start in range(0, len(rows), PAIRS):
        part = slice(start, start + PAIRS)
        values[part] = crop_agreement(copies[rows[part]], copies[others[part]], windows[at[part]])
        if progress is not None:
            progress(count + count * min(start + PAIRS, len(rows)) // len(rows), 2 * count)
    kept = values >= least
    low, high = np.minimum(rows, others)[kept], np.maximum(rows, others)[kept]
    return AlikePairs(low, high, values[kept].clip(max=1.0))


def crop_agreement(
    cropped: UInt8[np.ndarray, "p s s 3"], whole: UInt8[np.ndarray, "p s s 3"], windows: Float[np.ndarray, "p 4"]
) -> Float[np.ndarray, "p"]:
    """How far crops of pictures are other pictures: 1 where they are, 0 or less where a part of them is not.

    Crop and picture are RGB at 32 x 32, less the mean of each channel and at unit length, so that brightness and
    contrast do not count. With a the crop, b the picture and r = a - <a, b> b, the agreement is 1 less the largest of
    16 max_k |r_k|^2 over 64 blocks k (an hour's hand that points elsewhere is in few blocks, and JPEG's noise in all of
    them), 4 sum_k |r_k|^2 with r averaged in each block (another colour stays, noise goes) and (1 - <d a, d b>) / 2 of
    the unit details d, which are what the blocks' means leave. The edges of the crop are searched around the given ones
    for the largest <a, b>.

    Args:
        cropped: of which a crop is taken. whole: what it is compared with.
        windows: (left, top, right, bottom) of the crops, in shares of the side.
    """
    source = torch.from_numpy(cropped).float().permute(0, 3, 1, 2).contiguous()  # (p, 3, s, s)
    b = _centred(functional.interpolate(torch.from_numpy(whole).float().permute(0, 3, 1, 2), size=FINE, mode="area"))
    edges = torch.from_numpy(windows).float().clone()

    def crop(at: Float[Tensor, "p 4"]) -> tuple[Float[Tensor, "p 3 32 32"], Float[Tensor, "p"]]:
        boxes = torch.cat([torch.arange(len(at))[:, None].float(), at * source.shape[-1]], 1)
        a = _centred(roi_align(source, boxes, FINE, sampling_ratio=2, aligned=True))
        return a, (a * b).sum((1, 2, 3))

    a, correlation = crop(edges)
    for step in STEPS:
        for edge in range(4):
            for move in (-step, step):
                tried = edges.clone()
                tried[:, edge] = (tried[:, edge] + move).clamp(0, 1)
                other, value = crop(tried)
                better = value > correlation
                edges[better], a[better], correlation[better] = tried[better], other[better], value[better]
    residual = a - correlation[:, None, None, None] * b
    side = FINE // BLOCKS
    blocks = functional.avg_pool2d(residual.square().sum(1, keepdim=True), side) * side**2  # (p, 1, 8, 8)
    colours = functional.avg_pool2d(residual, side).square().sum((1, 2, 3)) * side**2  # (p,)
    unlike = torch.maximum(BLOCKS**2 / SLACK * blocks.amax((1, 2, 3)), COLOUR * colours)
    return (1 - torch.maximum(unlike, DETAIL * _unlike_details(a, b))).numpy()


def _unlike_details(a: Float[Tensor, "p 3 32 32"], b: Float[Tensor, "p 3 32 32"]) -> Float[Tensor, "p"]:
    """1 less the correlation of what the smoothed means of the blocks leave; 0 where one of them has no details."""
    side = FINE // BLOCKS
    details = [
        x - functional.interpolate(functional.avg_pool2d(x, side), scale_factor=side, mode="bilinear") for x in (a, b)
    ]
    lengths = [each.square().sum((1, 2, 3)).sqrt() for each in details]  # (p,) each
    correlation = (details[0] * details[1]).sum((1, 2, 3)) / (lengths[0] * lengths[1]).clamp_min(1e-12)
    return torch.where(torch.minimum(*lengths) < LEAST_DETAIL, 0.0, 1 - correlation)


def _crops(pictures: Float[Tensor, "r c s s"], windows: Float[Tensor, "w 4"], side: int) -> Float[Tensor, "rw c h h"]:
    """All crops of each picture, reduced to one side."""
    boxes = windows.repeat(len(pictures), 1) * pictures.shape[-1]
    of = torch.arange(len(pictures)).repeat_interleave(len(windows))[:, None].float()
    return roi_align(pictures, torch.cat([of, boxes], 1), side, sampling_ratio=3, aligned=True)


def _unit(rows: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    centred = rows - rows.mean(1, keepdim=True)
    return functional.normalize(centred, dim=1)


def _centred(pictures: Float[Tensor, "p 3 h w"]) -> Float[Tensor, "p 3 h w"]:
    """Less the mean of each channel, at unit length over all three."""
    centred = pictures - pictures.mean((2, 3), keepdim=True)
    return centred / centred.square().sum((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-6)
