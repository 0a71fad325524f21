"""Planar cross-sections of a solid, and the points on them that a field learns inside and outside from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["FieldSamples", "PlanarSlice", "slice_samples"]

RADIUS_EXPONENTS, EDGE_POINTS = (4, 5, 5, 6, 6, 7), (2, 2, 3, 3, 4, 5)
"""By level of refinement: the distance from the contour is 0.5 ** exponent; points on an edge and around a vertex."""
MARGIN, INSIDE, OUTSIDE = 1.05, 0.0, 1.0
MOST_POINTS = 10**7


@dataclass(frozen=True)
class PlanarSlice:
    """The cross-section of a solid with a plane: closed polygons, of which a point in an odd number is inside.

    So holes are polygons inside polygons, and islands in holes polygons in those. A slice without polygons says that
    the whole plane is outside.

    Attributes:
        contours: the polygons, each (V, 2) with at least three vertices in the plane's coordinates; the last vertex is
            joined to the first.
        origin: (3,), where the plane's coordinates are 0.
        axes: (2, 3), orthonormal directions of its coordinates.

    Raises:
        UsageError: fewer than three vertices, shapes that are none of these, values that are not finite, or axes that
            are not orthonormal to 1e-4.
    """

    contours: tuple[Float[Tensor, "_ 2"], ...]
    origin: Float[Tensor, "3"]
    axes: Float[Tensor, "2 3"]

    def __post_init__(self) -> None:
        if tuple(self.origin.shape) != (3,) or tuple(self.axes.shape) != (2, 3):
            raise UsageError(
                f"origin must be (3,) and axes (2, 3), got {tuple(self.origin.shape)} and {tuple(self.axes.shape)}"
            )
        for number, contour in enumerate(self.contours):
            if contour.ndim != 2 or contour.shape[1] != 2 or len(contour) < 3:
                raise UsageError(f"contour {number} must be (V, 2) of at least 3 vertices, not {tuple(contour.shape)}")
        if not all(bool(part.isfinite().all()) for part in (self.origin, self.axes, *self.contours)):
            raise UsageError("a slice's origin, axes and contours must be finite")
        axes = self.axes.double()
        if float((axes @ axes.T - torch.eye(2, dtype=torch.float64).to(axes.device)).abs().max()) > 1e-4:
            raise UsageError("a slice's axes must be orthonormal")

    @classmethod
    def horizontal(cls, contours: Sequence[Float[Tensor, "_ 2"]], height: float) -> PlanarSlice:
        """The slice at z = height with contours in x and y.

        Args:
            contours: as of a slice.
            height: in the units of the contours.
        """
        check_number("height", height, least=-1e9, most=1e9)
        return cls(tuple(contours), torch.tensor([0.0, 0.0, float(height)]), torch.eye(3)[:2])

    def lift(self, points: Float[Tensor, "N 2"]) -> Float[Tensor, "N 3"]:
        """Points of the plane as points in space."""
        return self.origin.to(points) + points @ self.axes.to(points)

    def inside(self, points: Float[Tensor, "N 2"]) -> Bool[Tensor, "N"]:
        """Whether points of the plane lie in an odd number of polygons: a ray crosses their edges oddly often."""
        result = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for contour in self.contours:
            start = contour.to(points)
            end = start.roll(-1, 0)
            for part in torch.arange(len(points), device=points.device).split(max(1, 4_000_000 // len(start))):
                x, y = points[part].unbind(1)
                crossed = (start[:, 1] > y[:, None]) != (end[:, 1] > y[:, None])  # [n V]: half open, vertices once
                rise = torch.where(crossed, end[:, 1] - start[:, 1], torch.ones_like(start[:, 1]))
                at = start[:, 0] + (y[:, None] - start[:, 1]) / rise * (end[:, 0] - start[:, 0])
                result[part] ^= (crossed & (x[:, None] < at)).sum(1) % 2 == 1
        return result

    def vertices(self) -> Float[Tensor, "V 3"]:
        """All vertices of the contours in space."""
        flat = torch.cat([self.origin.new_zeros(0, 2), *(contour.to(self.origin) for contour in self.contours)])
        return self.lift(flat)


@dataclass(frozen=True)
class FieldSamples:
    """Points and what a field has to be there.

    Attributes:
        points: (N, 3).
        labels: 0 inside, 1 outside, 0.5 on a contour.
    """

    points: Float[Tensor, "N 3"]
    labels: Float[Tensor, "N"]


def slice_samples(
    slices: Sequence[PlanarSlice], level: int = 0, *, noise: int = 2048, hull: int = 2**14,
    generator: torch.Generator | None = None,
) -> FieldSamples:  # fmt: skip
    """Points around the contours of slices at one level of refinement, on their planes, and around the whole solid.

    With r = 0.5^(4, 5, 5, 6, 6, 7) and n = 2, 2, 3, 3, 4, 5 by level: n points on a circle of radius r around every
    vertex; n points along every edge, labelled 0.5, and beside each one at a distance of r to either side; `noise`
    points of the square of side 2 around the contours' middle. Then `hull` points on the convex hull of all
    vertices, 1.05 times as large, which are outside.

    Args:
        slices: of a solid that fits into [-1, 1]^3; at least two planes with contours.
        level: of refinement, 0 to 5.
        noise: points on each plane, 0 to 10^7.
        hull: points on the hull, 0 to 10^7.
        generator: draws them.

    Raises:
        UsageError: a value out of range, or slices whose vertices lie in one plane.

    Paper: OReX (arXiv 2211.12886).
    """
    check_whole("level", level, least=0)
    check_number("level", level, most=len(EDGE_POINTS) - 1)
    for name, count in (("noise", noise), ("hull", hull)):
        check_whole(name, count, least=0)
        check_number(name, count, most=MOST_POINTS)
    vertices = torch.cat([torch.zeros(0, 3), *(part.vertices().float() for part in slices)])
    boundary = _hull_points(vertices, hull, generator)
    radius, count = 0.5 ** RADIUS_EXPONENTS[level], EDGE_POINTS[level]
    points, labels = [], []
    for part in slices:
        free, contour = _around(part, radius, count)
        middle = torch.cat(part.contours).float().mean(0) if part.contours else torch.zeros(2)
        free = torch.cat([free, middle + 2 * torch.rand(noise, 2, generator=generator) - 1])
        points += [part.lift(free), part.lift(contour)]
        labels += [(~part.inside(free)).float(), torch.full((len(contour),), (INSIDE + OUTSIDE) / 2)]
    return FieldSamples(torch.cat([*points, boundary]), torch.cat([*labels, torch.full((len(boundary),), OUTSIDE)]))


def _around(part: PlanarSlice, radius: float, count: int) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "M 2"]]:
    """Points around the vertices and beside the edges of a slice, and points on its edges."""
    angles = torch.arange(count) * (2 * math.pi / count) - math.pi
    circle = radius * torch.stack([angles.cos(), angles.sin()], 1)
    along = (torch.arange(count) / count)[:, None]
    free, contour = [torch.zeros(0, 2)], [torch.zeros(0, 2)]
    for polygon in part.contours:
        start = polygon.float()
        end = start.roll(-1, 0)
        direction = end - start
        normal = torch.stack([direction[:, 1], -direction[:, 0]], 1)
        normal = normal / normal.norm(dim=1, keepdim=True).clamp(min=1e-12)
        on = start[:, None] + along * direction[:, None]  # [V n 2]
        beside = radius * normal[:, None]
        free += [(start[:, None] + circle).flatten(0, 1), (on + beside).flatten(0, 1), (on - beside).flatten(0, 1)]
        contour.append(on.flatten(0, 1))
    return torch.cat(free), torch.cat(contour)


def _hull_points(vertices: Tensor, count: int, generator: torch.Generator | None) -> Float[Tensor, "N 3"]:
    """Points drawn evenly from the convex hull's surface, a little larger around the middle of the vertices."""
    from scipy.spatial import ConvexHull, QhullError

    if not len(vertices):
        raise UsageError("no slice has a contour: there is no solid to see")
    try:
        shape = ConvexHull(vertices.double().numpy())
    except (QhullError, ValueError) as error:
        raise UsageError(
            "the slices' vertices lie in one plane: at least two planes with contours are needed"
        ) from error
    middle = vertices.mean(0)
    corners = (middle + MARGIN * (vertices - middle))[torch.from_numpy(shape.simplices).long()]  # [F 3 3]
    first, second = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    area = torch.linalg.cross(first, second).norm(dim=1)
    chosen = torch.multinomial(area, count, replacement=True, generator=generator) if count else torch.zeros(0).long()
    weights = torch.rand(count, 2, generator=generator)
    weights = torch.where(weights.sum(1, keepdim=True) > 1, 1 - weights, weights)  # the other half of a parallelogram
    return corners[chosen, 0] + weights[:, :1] * first[chosen] + weights[:, 1:] * second[chosen]
