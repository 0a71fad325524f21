"""Filling a hole in a picture from its border, by Telea's fast-marching method."""

from __future__ import annotations

import heapq
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from binderclip.errors import UsageError

__all__ = ["inpaint_telea"]

_FAR = 1e6


def inpaint_telea(
    image: Float[np.ndarray, "H W C"], hole: Bool[np.ndarray, "H W"], *, radius: int = 3
) -> Float[np.ndarray, "H W C"]:
    """Fill the pixels of a hole, from its border inwards; the others stay as they are.

    The pixels are visited in the order of their distance from the border. Each becomes the weighted mean of what the
    known pixels q around it predict to first order, I(q) + grad I(q) . (p - q) (equation 2), with weights that fall
    with the distance, favour the normal of the front and pixels as far inside (section 2.4).

    Args:
        image: floats of any range.
        hole: True where to fill.
        radius: of the neighbourhood, in pixels.

    Raises:
        UsageError: shapes that do not match, a radius below 1, or a hole that leaves nothing to fill from.

    Paper: An Image Inpainting Technique Based on the Fast Marching Method (Telea, Journal of Graphics Tools 2004).
    """
    if image.ndim != 3 or hole.shape != image.shape[:2]:
        raise UsageError(f"inpaint_telea needs (H, W, C) and a hole (H, W), got {image.shape} and {hole.shape}")
    if radius < 1:
        raise UsageError(f"radius must be at least 1 pixel, got {radius}")
    if hole.all():
        raise UsageError("the hole is the whole picture: nothing is left to fill it from")
    found = np.asarray(image, dtype=np.float64).copy()
    if hole.any():
        _March(found, hole, radius).run()
    return found.astype(image.dtype, copy=False)


class _March:
    """The front between known and unknown pixels, with a margin of unknown pixels that are never visited."""

    def __init__(self, image: np.ndarray, hole: np.ndarray, radius: int) -> None:
        self.image, self.pad = image, radius + 1
        self.size = hole.shape
        self.inside = np.pad(hole, self.pad, constant_values=True)  # of the hole, or of the margin
        self.time = np.where(self.inside, _FAR, 0.0)
        self.values = np.pad(image, ((self.pad,) * 2, (self.pad,) * 2, (0, 0)))
        steps = np.arange(-radius, radius + 1)
        rows, columns = (axis.ravel() for axis in np.meshgrid(steps, steps, indexing="ij"))
        near = (rows**2 + columns**2 <= radius**2) & ((rows != 0) | (columns != 0))
        self.rows, self.columns = rows[near], columns[near]
        self._known_times(radius)

    def _known_times(self, radius: int) -> None:
        """Minus the distance of known pixels from the hole, by the same march outwards, up to two radii."""
        hole = self.inside.copy()
        hole[: self.pad], hole[-self.pad :], hole[:, : self.pad], hole[:, -self.pad :] = False, False, False, False
        away = np.where(hole, 0.0, _FAR)
        front = [(0.0, place) for place in self._border(hole, self.inside)]
        heapq.heapify(front)
        for _, place in front:
            away[place] = 0.0
        done = hole.copy()
        while front:
            time, place = heapq.heappop(front)
            if done[place] or time > 2 * radius:
                continue
            done[place] = True
            for other in _beside(place):
                if not done[other] and not self.inside[other]:
                    arrival = _arrival(away, done, other)
                    if arrival < away[other]:
                        away[other] = arrival
                        heapq.heappush(front, (arrival, other))
        self.time = np.where(self.inside, _FAR, -np.minimum(away, 2.0 * radius))

    @staticmethod
    def _border(hole: np.ndarray, blocked: np.ndarray) -> list[tuple[int, int]]:
        """Known pixels with a pixel of the hole beside them."""
        beside = np.zeros_like(hole)
        beside[1:] |= hole[:-1]
        beside[:-1] |= hole[1:]
        beside[:, 1:] |= hole[:, :-1]
        beside[:, :-1] |= hole[:, 1:]
        return [(int(row), int(column)) for row, column in np.argwhere(beside & ~blocked)]

    def run(self) -> None:
        """Fill every pixel of the hole."""
        height, width = self.size
        hole = np.zeros_like(self.inside)
        inner = slice(self.pad, self.pad + height), slice(self.pad, self.pad + width)
        hole[inner] = self.inside[inner]
        known = ~self.inside
        front = [(0.0, place) for place in self._border(hole, self.inside)]
        heapq.heapify(front)
        settled = np.zeros_like(hole)
        while front:
            _, place = heapq.heappop(front)
            if settled[place]:
                continue
            settled[place] = True
            for other in _beside(place):
                if not hole[other]:
                    continue
                self.time[other] = _arrival(self.time, known, other)
                self._fill(other, known)
                hole[other], known[other] = False, True
                heapq.heappush(front, (float(self.time[other]), other))
        self.image[...] = self.values[inner]

    def _fill(self, place: tuple[int, int], known: np.ndarray) -> None:
        """One pixel from the known ones around it."""
        rows, columns = place[0] + self.rows, place[1] + self.columns
        there = known[rows, columns]
        rows, columns = rows[there], columns[there]
        away = np.stack([place[0] - rows, place[1] - columns], 1).astype(float)  # p - q, (n, 2)
        square = (away**2).sum(1)
        normal = np.array(_slope(self.time, known | _only(known, place), place))
        direction = np.abs(away @ normal) / np.sqrt(square)
        level = 1 / (1 + np.abs(self.time[rows, columns] - self.time[place]))
        weights = np.maximum(direction, 1e-6) / square * level  # (n,)
        places = zip(rows.tolist(), columns.tolist(), strict=True)
        slopes = np.stack([_slope(self.values, known, each) for each in places])  # (n, 2, C)
        predicted = self.values[rows, columns] + np.einsum("nd,ndc->nc", away, slopes)
        self.values[place] = weights @ predicted / weights.sum()


def _only(known: np.ndarray, place: tuple[int, int]) -> np.ndarray:
    alone = np.zeros_like(known)
    alone[place] = True
    return alone


def _beside(place: tuple[int, int]) -> list[tuple[int, int]]:
    row, column = place
    return [(row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1)]


def _slope(values: np.ndarray, known: np.ndarray, place: tuple[int, int]) -> tuple[Any, Any]:
    """Differences along rows and columns, between known pixels alone: central, one-sided, or 0; (C,) or numbers."""
    found = []
    for step in ((1, 0), (0, 1)):
        ahead = place[0] + step[0], place[1] + step[1]
        behind = place[0] - step[0], place[1] - step[1]
        if known[ahead] and known[behind]:
            found.append((values[ahead] - values[behind]) / 2)
        elif known[ahead]:
            found.append(values[ahead] - values[place])
        elif known[behind]:
            found.append(values[place] - values[behind])
        else:
            found.append(values[place] * 0)
    return found[0], found[1]


def _arrival(time: np.ndarray, known: np.ndarray, place: tuple[int, int]) -> float:
    """When the front arrives: |grad T| = 1 by upwind differences to the known pixels beside."""
    row, column = place
    a = min((time[r, column] for r in (row - 1, row + 1) if known[r, column]), default=_FAR)
    b = min((time[row, c] for c in (column - 1, column + 1) if known[row, c]), default=_FAR)
    low, high = min(a, b), max(a, b)
    if high - low >= 1:
        return float(low + 1)
    return float((low + high + math.sqrt(2 - (high - low) ** 2)) / 2)
