"""Pictures of overlapping discs and triangles of one colour each, with the exact distance to the nearest edge."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from binderclip.numeric import check_number, check_whole

__all__ = ["KaleidoShapes", "kaleidoshapes", "region_edges"]

LEAST_BASE, LARGEST_BASE, LEAST_HEIGHT, LARGEST_RADIUS = 0.02, 0.5, 0.02, 0.2
"""Of triangles and discs, as parts of the picture's longer side, as in the released generator."""
LEAST_VISIBLE = 0.005
"""A shape that fills less of the picture is left out."""
JUNCTION_RADIUS = 7.0
"""Standard deviation in pixels of the weight around a junction."""


@dataclass(frozen=True)
class KaleidoShapes:
    """N pictures.

    Attributes:
        images: without noise, in [0, 1].
        regions: 0 for the ground, k for the k-th shape from the back; pixels lie where their centres lie.
        distances: from each pixel's centre to the nearest visible outline, in pixels; exact.
        junction_weight: highest 1, where an outline has a visible corner or two of them meet, and a Gaussian around it.
    """

    images: Float[Tensor, "N 3 H W"]
    regions: Int[Tensor, "N H W"]
    distances: Float[Tensor, "N H W"]
    junction_weight: Float[Tensor, "N H W"]

    @property
    def edges(self) -> Bool[Tensor, "N H W"]:
        """The last pixels of each region, see `region_edges`."""
        return region_edges(self.regions)

    def noisy(
        self, level: tuple[float, float] = (0.3, 0.8), *, generator: torch.Generator | None = None
    ) -> Float[Tensor, "N 3 H W"]:
        """The pictures with Gaussian noise, cut to [0, 1]: the commonest of the released program's kinds of noise.

        Args:
            level: least and largest standard deviation; each picture has one between them.
            generator: of the random numbers.

        Raises:
            UsageError: levels that are negative, not finite or not in order.
        """
        low, high = level
        check_number("level", low, least=0)
        check_number("level", high, least=low)
        sigma = torch.rand(len(self.images), 1, 1, 1, generator=generator) * (high - low) + low
        return (self.images + sigma * torch.randn(self.images.shape, generator=generator)).clamp(0, 1)


def region_edges(regions: Int[Tensor, "*batch H W"]) -> Bool[Tensor, "*batch H W"]:
    """Pixels whose right or lower neighbour belongs to another region: edges of one pixel from any label map.

    Args:
        regions: id of each pixel, such as `Scenes.semantic`.

    Examples:
        >>> import torch
        >>> region_edges(torch.tensor([[0, 0, 1], [0, 0, 1]])).int().tolist()
        [[0, 1, 0], [0, 1, 0]]
    """
    edges = torch.zeros_like(regions, dtype=torch.bool)
    edges[..., :-1] |= regions[..., :-1] != regions[..., 1:]
    edges[..., :-1, :] |= regions[..., :-1, :] != regions[..., 1:, :]
    return edges


def kaleidoshapes(
    seed: int,
    n: int,
    *,
    size: tuple[int, int] = (240, 320),
    shapes: tuple[int, int] = (15, 19),
    circles: float = 0.4,
) -> KaleidoShapes:
    """Draw discs and triangles over each other; picture i depends on (seed, i) and the options only.

    Every shape lies within the picture. Colours are uniform, so that some edges are faint.

    Args:
        seed: any integer of at least 0.
        n: number of pictures.
        size: (H, W) in pixels, at least 16.
        shapes: least and most shapes, before those are left out of which less than 0.5 % of the picture is seen.
        circles: chance that a shape is a disc.

    Raises:
        UsageError: a value out of its range.

    Paper: Boundary Attention: Learning to Find Faint Boundaries at Any Resolution (arXiv 2401.00935).

    Examples:
        >>> pictures = kaleidoshapes(0, 2, size=(32, 48), shapes=(3, 5))
        >>> pictures.images.shape, bool(pictures.edges.any())
        (torch.Size([2, 3, 32, 48]), True)
    """
    check_whole("seed", seed, least=0)
    check_whole("n", n, least=0)
    for side in size:
        check_whole("size", side, least=16)
    check_whole("shapes", shapes[0], least=0)
    check_whole("shapes", shapes[1], least=shapes[0])
    check_number("circles", circles, least=0, most=1)
    height, width = size
    drawn = [_picture(np.random.default_rng([seed, i]), height, width, shapes, circles) for i in range(n)]
    if not drawn:
        empty = torch.zeros(0, height, width)
        return KaleidoShapes(torch.zeros(0, 3, height, width), empty.long(), empty, empty)
    images, regions, distances, weights = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
    return KaleidoShapes(images.float(), regions, distances.float(), weights.float())


@dataclass(frozen=True)
class _Disc:
    """A disc in pixels."""

    centre: np.ndarray
    radius: float

    def signed_distance(self, points: np.ndarray) -> Any:
        """From the outline, negative inside; points (..., 2)."""
        return np.hypot(*np.moveaxis(points - self.centre, -1, 0)) - self.radius


@dataclass(frozen=True)
class _Triangle:
    """A triangle by its corners (3, 2) in pixels."""

    corners: np.ndarray

    def signed_distance(self, points: np.ndarray) -> Any:
        """From the outline, negative inside; points (..., 2)."""
        least, inside = np.full(points.shape[:-1], np.inf), np.ones(points.shape[:-1], dtype=bool)
        turn = np.sign(_cross(self.corners[1] - self.corners[0], self.corners[2] - self.corners[0]))
        for start, end in self.sides():
            along, to = end - start, points - start
            foot = np.clip((to @ along) / (along @ along), 0, 1)
            least = np.minimum(least, np.hypot(*np.moveaxis(to - foot[..., None] * along, -1, 0)))
            inside &= turn * _cross(along, to) > 0
        return np.where(inside, -least, least)

    def sides(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(start, end) of each."""
        return [(self.corners[k], self.corners[(k + 1) % 3]) for k in range(3)]


_Shape = _Disc | _Triangle


def _picture(
    rng: np.random.Generator, height: int, width: int, count: tuple[int, int], circles: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Picture (3, H, W), regions, distances and weight of junctions (H, W)."""
    number = int(rng.integers(count[0], count[1] + 1))
    every: list[_Shape] = [
        _disc(rng, height, width) if rng.random() < circles else _triangle(rng, height, width) for _ in range(number)
    ]
    colours = rng.integers(0, 256, size=(number + 1, 3)) / 255
    points = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype(float)  # (H, W, 2), x first
    signed = [shape.signed_distance(points) for shape in every]
    seen = _stacked(signed, height, width)
    kept = [k for k in range(number) if (seen == k + 1).mean() > LEAST_VISIBLE]
    shapes = [every[k] for k in kept]
    regions = _stacked([signed[k] for k in kept], height, width)
    distance = np.full((height, width), np.inf)
    for k in kept:
        # Inside a shape its own outline is nearest, whatever lies below; a later shape that hides it is nearer still.
        distance = np.where(signed[k] < 0, -signed[k], np.minimum(signed[k], distance))
    distance = np.minimum(distance, np.hypot(height, width))  # a picture without shapes
    weight = np.full((height, width), 1e-4)
    for place in _junctions(shapes):
        weight = np.maximum(weight, np.exp(-((points - place) ** 2).sum(-1) / (2 * JUNCTION_RADIUS**2)))
    picture = colours[np.array([0, *(k + 1 for k in kept)])][regions].transpose(2, 0, 1)
    return picture, regions, distance, weight


def _stacked(signed: list[np.ndarray], height: int, width: int) -> np.ndarray:
    """Number of the front-most shape at each pixel, from 1."""
    regions = np.zeros((height, width), dtype=np.int64)
    for k, one in enumerate(signed, start=1):
        regions[one < 0] = k
    return regions


def _disc(rng: np.random.Generator, height: int, width: int) -> _Disc:
    scale, edge = max(height, width), np.array([width - 1, height - 1])
    radius = min(rng.random() * LARGEST_RADIUS * scale, edge.min() / 2)
    return _Disc(radius + rng.random(2) * (edge - 2 * radius), radius)


def _triangle(rng: np.random.Generator, height: int, width: int) -> _Triangle:
    """Corners drawn again until base and height are in range."""
    scale, edge = max(height, width), np.array([width - 1, height - 1])
    while True:
        corners = rng.random((3, 2)) * edge
        base = np.hypot(*(corners[1] - corners[0]))
        area = abs(_cross(corners[1] - corners[0], corners[2] - corners[0]))  # twice the triangle's: base times height
        if LEAST_BASE * scale < base < LARGEST_BASE * scale and area > LEAST_HEIGHT * scale * base:
            return _Triangle(corners)


def _cross(a: np.ndarray, b: np.ndarray) -> Any:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _junctions(shapes: list[_Shape]) -> list[np.ndarray]:
    """Visible corners, and points where a visible outline runs under another shape's."""
    places = []
    for i, shape in enumerate(shapes):
        if isinstance(shape, _Triangle):
            places += [corner for corner in shape.corners if not _hidden(corner, shapes[i + 1 :])]
        for j in range(i + 1, len(shapes)):
            others = shapes[i + 1 : j] + shapes[j + 1 :]
            places += [point for point in _crossings(shape, shapes[j]) if not _hidden(point, others)]
    return places


def _hidden(point: np.ndarray, shapes: list[_Shape]) -> bool:
    return any(shape.signed_distance(point) < 0 for shape in shapes)


def _crossings(a: _Shape, b: _Shape) -> list[np.ndarray]:
    """Where two outlines meet."""
    if isinstance(a, _Triangle) and isinstance(b, _Triangle):
        meet = [_meet(one, other) for one, other in itertools.product(a.sides(), b.sides())]
        return [point for point in meet if point is not None]
    if isinstance(a, _Disc) and isinstance(b, _Disc):
        apart = b.centre - a.centre
        gap = np.hypot(*apart)
        if not abs(a.radius - b.radius) < gap < a.radius + b.radius:
            return []
        along = (a.radius**2 - b.radius**2 + gap**2) / (2 * gap)
        beside = np.sqrt(max(a.radius**2 - along**2, 0.0)) * np.array([-apart[1], apart[0]]) / gap
        foot = a.centre + along * apart / gap
        return [foot + beside, foot - beside]
    disc, triangle = (a, b) if isinstance(a, _Disc) else (b, a)
    assert isinstance(disc, _Disc)
    assert isinstance(triangle, _Triangle)
    places = []
    for start, end in triangle.sides():
        # |start + t (end - start) - centre| = radius
        step, to = end - start, start - disc.centre
        p, q, r = step @ step, step @ to, to @ to - disc.radius**2
        if q**2 > p * r:
            roots = (-q + np.sqrt(q**2 - p * r) * np.array([-1, 1])) / p
            places += [start + t * step for t in roots if 0 <= t <= 1]
    return places


def _meet(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> np.ndarray | None:
    """Where two segments cross, None where they do not."""
    u, v, between = a[1] - a[0], b[1] - b[0], b[0] - a[0]
    area = _cross(u, v)
    if area == 0:
        return None
    s, t = _cross(between, v) / area, _cross(between, u) / area
    return a[0] + s * u if 0 <= s <= 1 and 0 <= t <= 1 else None
