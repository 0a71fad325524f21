"""Curves of several cubic Bezier segments, and the straight pieces they are rendered as."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["CurveIndex", "Pieces", "curve_index", "flatten", "pieces_for", "pieces_of"]


class CurveIndex(NamedTuple):
    """Which points make each segment, and whose it is.

    Args:
        points: rows of the four control points of each segment.
        owner: the curve of each segment.
        curves: their number.
    """

    points: Int[Tensor, "S 4"]
    owner: Int[Tensor, " S"]
    curves: int


class Pieces(NamedTuple):
    """Straight pieces, in pixels, x to the right and y down, (0, 0) the upper left corner of the picture.

    Args:
        start, end: of each.
        owner: the curve it belongs to.
        curves: their number.
    """

    start: Float[Tensor, "Q 2"]
    end: Float[Tensor, "Q 2"]
    owner: Int[Tensor, " Q"]
    curves: int


def curve_index(segments: Sequence[int], closed: bool) -> CurveIndex:
    """Of curves whose points stand one curve after the other: 3 s + 1 points for s segments, of a closed curve 3 s."""
    rows, owner, first = [], [], 0
    for curve, count in enumerate(segments):
        size = 3 * count + (0 if closed else 1)
        rows += [[first + (3 * s + k) % size for k in range(4)] for s in range(count)]
        owner += [curve] * count
        first += size
    points = torch.tensor(rows, dtype=torch.long).reshape(-1, 4)
    return CurveIndex(points, torch.tensor(owner, dtype=torch.long), len(segments))


def pieces_for(size: tuple[int, int]) -> int:
    """Straight pieces a segment: 8 for pictures of 64 px, 24 for 224 px and larger ones."""
    return min(24, max(8, round(max(size) * 24 / 224)))


def flatten(points: Float[Tensor, "P 2"], index: CurveIndex, pieces: int) -> Pieces:
    """Each segment as so many chords between points at equal steps of its parameter; differentiable in the points."""
    control = points[index.points]  # [S, 4, 2]
    nodes = _bernstein(pieces).to(points) @ control  # [S, K + 1, 2]
    start, end = nodes[:, :-1].reshape(-1, 2), nodes[:, 1:].reshape(-1, 2)
    return Pieces(start, end, index.owner.repeat_interleave(pieces), index.curves)


def pieces_of(pieces: Pieces, curves: range) -> Pieces:
    """The pieces of some curves that follow one another, numbered from 0."""
    own = (pieces.owner >= curves.start) & (pieces.owner < curves.stop)
    return Pieces(pieces.start[own], pieces.end[own], pieces.owner[own] - curves.start, len(curves))


@lru_cache
def _bernstein(pieces: int) -> Float[Tensor, "K 4"]:
    """Bernstein polynomials of degree 3 at equal steps of [0, 1]."""
    t = torch.linspace(0, 1, pieces + 1, dtype=torch.float64)
    return torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
