"""How much of each pixel a stroke or a filled path covers: exact inside and outside, one pixel wide at the edge.

Only pixels that an edge can touch are looked at: pairs of a straight piece and a pixel of its box. The nearest piece
of a pixel is looked up without a graph, and the distance to that one alone has a gradient, which is the same one: a
minimum's gradient is that of the smallest value. Wide strokes are looked at by tiles first, of which only those at an
edge are looked at pixel by pixel. So time grows with the length of the outlines, not with the picture.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.generate.draw.vector.curves import Pieces

__all__ = [
    "EDGE",
    "enumerate_rows",
    "fill_coverage",
    "nearest_piece",
    "piece_distance",
    "stroke_coverage",
    "winding_number",
]

EDGE = 0.5
"""Half the width of an edge, in pixels: that of a pixel, whose square covers a line of its direction so far."""
_TILE = 4
"""Side of a tile in pixels. Strokes that reach further than this from their curve are looked at by tiles first."""


def stroke_coverage(pieces: Pieces, width: Float[Tensor, " n"], size: tuple[int, int]) -> Float[Tensor, "n P"]:
    """The part of each pixel that strokes with round ends and joins cover, 0 to 1.

    At a distance d from the curve it is the overlap of [d - 1/2, d + 1/2] with [-w/2, w/2], which is exact for a
    straight stroke along an axis, thinner than a pixel or not.

    Args:
        pieces: of n strokes.
        width: full width of each, in pixels, above 0.
        size: (H, W).

    Returns:
        A row for each stroke, P = H * W pixels row by row; differentiable in the pieces and the widths.
    """
    with torch.no_grad():
        reach = (width / 2 + EDGE)[pieces.owner]
        wide = reach > _TILE
        pairs = _box_pairs(pieces, (~wide).nonzero()[:, 0], reach, size)
        coverage = width.new_zeros(pieces.curves * size[0] * size[1])
        if bool(wide.any()):
            *more, inside = _tile_pairs(pieces, wide.nonzero()[:, 0], reach, size)
            pairs = torch.cat([pairs[0], more[0]]), torch.cat([pairs[1], more[1]])
            coverage = inside.to(coverage).flatten()
        key, piece = _nearest(pieces, *pairs, reach, size)
    distance = _distance(pieces, piece, key, size)
    half = width[pieces.owner[piece]] / 2
    overlap = torch.minimum(distance + EDGE, half) - torch.maximum(distance - EDGE, -half)
    return coverage.index_put((key,), overlap.clamp(0, 1)).reshape(pieces.curves, size[0] * size[1])


def fill_coverage(pieces: Pieces, size: tuple[int, int]) -> Float[Tensor, "n P"]:
    """The part of each pixel that closed paths cover by the non-zero rule, 0 to 1: 1/2 + the signed distance.

    Args:
        pieces: of n closed paths.
        size: (H, W).

    Returns:
        A row for each path, P = H * W pixels row by row. The gradient flows through the distance at the outline.
    """
    with torch.no_grad():
        inside = winding_number(pieces, size) != 0  # [n, P]
        reach = pieces.start.new_full((len(pieces.start),), EDGE)
        every = torch.arange(len(reach), device=reach.device)
        key, piece = _nearest(pieces, *_box_pairs(pieces, every, reach, size), reach, size)
        sign = 2 * inside.flatten()[key].to(pieces.start) - 1
    near = (EDGE + sign * _distance(pieces, piece, key, size)).clamp(0, 1)
    return inside.to(pieces.start).flatten().index_put((key,), near).reshape(pieces.curves, size[0] * size[1])


@torch.no_grad()
def winding_number(pieces: Pieces, size: tuple[int, int]) -> Int[Tensor, "n P"]:
    """How often each closed path runs around each pixel's centre, clockwise positive.

    A piece changes it by one to the right of where it crosses a row of centres, so a sum along the row gives it.
    """
    height, width = size
    y0, y1 = pieces.start[:, 1], pieces.end[:, 1]
    # Rows whose centre lies in [low, high): half open, so that a row through a node is crossed once.
    first = (torch.minimum(y0, y1) - 0.5).ceil().clamp(0, height).long()
    last = (torch.maximum(y0, y1) - 0.5).ceil().clamp(0, height).long()
    piece, offset = enumerate_rows(last - first)
    row = first[piece] + offset
    start, end = pieces.start[piece], pieces.end[piece]
    slope = (end[:, 0] - start[:, 0]) / (end[:, 1] - start[:, 1])  # no row is crossed where it is 0 / 0
    x = start[:, 0] + (row + 0.5 - start[:, 1]) * slope
    column = (x - 0.5).ceil().clamp(0, width).long()  # the first centre at the right of the crossing, W for none
    turn = torch.where(end[:, 1] > start[:, 1], -1, 1)  # y points down
    change = torch.zeros(pieces.curves * height * (width + 1), dtype=torch.long, device=x.device)
    change.index_add_(0, (pieces.owner[piece] * height + row) * (width + 1) + column, turn)
    return change.reshape(pieces.curves, height, width + 1).cumsum(2)[..., :width].flatten(1)


def _box_pairs(
    pieces: Pieces, which: Int[Tensor, " S"], reach: Float[Tensor, " Q"], size: tuple[int, int]
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"]]:
    """Pairs of a piece and a pixel of its box, widened by its reach: pieces, and `curve * H * W + pixel`.

    Args:
        pieces: of all curves.
        which: rows of the pieces that are asked for.
        reach: of every piece, in pixels.
        size: (H, W).
    """
    height, width = size
    limits = torch.tensor([width, height], device=reach.device)
    start, end, margin = pieces.start[which], pieces.end[which], reach[which, None]
    low = torch.minimum(start, end) - margin - 0.5
    high = torch.maximum(start, end) + margin - 0.5
    # NaN and huge numbers have no place on the canvas: clamping first keeps the integers in range
    low = torch.minimum(low.nan_to_num(0).ceil().clamp(min=0), limits).long()
    high = torch.minimum(high.nan_to_num(0).floor().clamp(min=-1) + 1, limits).long()
    box = (high - low).clamp(min=0)  # [S, 2]: columns, rows
    row, offset = enumerate_rows(box[:, 0] * box[:, 1])
    columns = box[row, 0]
    pixel = (low[row, 1] + offset // columns) * width + low[row, 0] + offset % columns
    piece = which[row]
    return piece, pieces.owner[piece] * (height * width) + pixel


def _tile_pairs(
    pieces: Pieces, which: Int[Tensor, " S"], reach: Float[Tensor, " Q"], size: tuple[int, int]
) -> tuple[Int[Tensor, " M"], Int[Tensor, " M"], Bool[Tensor, "n P"]]:
    """Pairs as of `_box_pairs`, but for those no edge can touch; and which pixels lie in tiles wholly inside.

    A pixel lies at most r from its tile's centre. So no pixel of a tile has an edge where even the nearest piece is
    further from the centre than r + reach, or nearer than the inner side of the edge less r; and a piece that is 2 r
    further from the centre than the nearest one is nearest to no pixel of the tile.
    """
    height, width = size
    grid = (-(-height // _TILE), -(-width // _TILE))
    cells, r = grid[0] * grid[1], (_TILE - 1) / 2 * math.sqrt(2)
    coarse = Pieces(pieces.start / _TILE, pieces.end / _TILE, pieces.owner, pieces.curves)  # a tile is a pixel of it
    piece, key = _box_pairs(coarse, which, (reach + r) / _TILE, grid)
    distance = _TILE * _distance(coarse, piece, key, grid)
    smallest = distance.new_full((pieces.curves * cells,), torch.inf)
    nearest = smallest.scatter_reduce_(0, key, distance, "amin")[key]
    solid = nearest + r <= reach[piece] - 2 * EDGE
    inside = torch.zeros(pieces.curves * cells, dtype=torch.bool, device=key.device)
    inside[key[solid]] = True
    close = ~solid & (nearest < reach[piece] + r) & (distance <= nearest + 2 * r)
    piece, cell = piece[close, None], key[close, None] % cells
    offset = torch.arange(_TILE * _TILE, device=key.device)
    y = cell // grid[1] * _TILE + offset // _TILE  # [K, T * T]
    x = cell % grid[1] * _TILE + offset % _TILE
    within = (y < height) & (x < width)
    key = pieces.owner[piece] * (height * width) + y * width + x
    blocks = inside.reshape(pieces.curves, *grid).repeat_interleave(_TILE, 1).repeat_interleave(_TILE, 2)
    return piece.expand_as(key)[within], key[within], blocks[:, :height, :width].flatten(1)


def _nearest(
    pieces: Pieces, piece: Int[Tensor, " M"], key: Int[Tensor, " M"], reach: Float[Tensor, " Q"], size: tuple[int, int]
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """Of pairs of piece and pixel those nearer than the reach, one a curve and pixel: key, and nearest piece."""
    distance = _distance(pieces, piece, key, size)
    close = distance < reach[piece]
    piece, key, distance = piece[close], key[close], distance[close]
    return nearest_piece(key, piece, distance, pieces.curves * size[0] * size[1])


def nearest_piece(
    key: Int[Tensor, " M"], piece: Int[Tensor, " M"], distance: Float[Tensor, " M"], count: int
) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """The keys, each once and in order, that are among pairs of key and piece, and the nearest piece of each.

    Args:
        key, piece, distance: of each pair.
        count: of keys that there may be.
    """
    smallest = distance.new_full((count,), torch.inf)
    smallest.scatter_reduce_(0, key, distance, "amin")
    best = distance == smallest[key]
    chosen = piece.new_full((count,), -1)
    chosen[key[best]] = piece[best]  # of pieces that are equally near, any
    key = (chosen >= 0).nonzero()[:, 0]
    return key, chosen[key]


def _distance(
    pieces: Pieces, piece: Int[Tensor, " M"], key: Int[Tensor, " M"], size: tuple[int, int]
) -> Float[Tensor, " M"]:
    """Distance of pixels' centres from pieces; its gradient at 0 is 0."""
    height, width = size
    pixel = key % (height * width)
    return piece_distance(pieces, piece, torch.stack([pixel % width, pixel // width], 1))


def piece_distance(pieces: Pieces, piece: Int[Tensor, " M"], pixel: Int[Tensor, "M 2"]) -> Float[Tensor, " M"]:
    """Distance of the centres of pixels (x, y) from pieces; its gradient at 0 is 0."""
    centre = pixel.to(pieces.start) + 0.5
    start, end = pieces.start[piece], pieces.end[piece]
    along, offset = end - start, centre - start
    t = ((offset * along).sum(1) / along.square().sum(1).clamp(min=1e-12)).clamp(0, 1)
    square = (offset - t[:, None] * along).square().sum(1)
    return square.clamp(min=1e-12).sqrt()


def enumerate_rows(counts: Int[Tensor, " Q"]) -> tuple[Int[Tensor, " N"], Int[Tensor, " N"]]:
    """For each row q the numbers 0 ... counts[q] - 1: (q, number), N in all."""
    row = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    before = counts.cumsum(0) - counts
    return row, torch.arange(len(row), device=counts.device) - before[row]
