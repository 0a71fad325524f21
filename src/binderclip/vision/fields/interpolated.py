"""A solid between parallel cross-sections: their signed distances, interpolated along the normal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.vision.fields.mesh import TriangleMesh, level_surface
from binderclip.vision.fields.sections import contour_segments, fill_segments
from binderclip.vision.fields.slices import PlanarSlice

__all__ = ["are_parallel", "interpolated_surface"]

LEAST_CELLS, MOST_PLACES = 24, 1000
"""Cells of the grid across the thinner side of the contours, and places along an axis that a level surface takes."""
NEAREST = 3
"""Pieces of a contour whose distance is computed: those whose middles are nearest."""
PARALLEL = 1e-4


def are_parallel(slices: Sequence[PlanarSlice]) -> bool:
    """Whether the planes of slices are parallel to 1e-4."""
    normals = torch.stack([torch.linalg.cross(*part.axes.double().cpu()) for part in slices])
    return bool((1 - (normals @ normals[0]).abs() < PARALLEL**2).all())


def interpolated_surface(
    slices: Sequence[PlanarSlice], resolution: int = 128, *, progress: Callable[[int, int], object] | None = None
) -> TriangleMesh:
    """The solid whose cross-section changes from slice to slice by linear interpolation of signed distances.

    A slice's signed distance is that to its contours, below 0 inside. The solid ends with flat faces at the first and
    the last plane. Where a neighbour is empty, its distance is the depth of the other's deepest point, so the solid
    ends half-way at the latest: the slices say no more than that it does between them. Parts of two neighbouring slices
    that do not overlap are not joined.

    Args:
        slices: at least two planes, all parallel and at different heights, in any order.
        resolution: places of the grid along the longest side of the contours, 8 to 512; thin sides get 24 at least.
        progress: called with the number of slices that are done, and of all.

    Returns:
        A closed mesh in the units of the slices.

    Raises:
        UsageError: fewer than two slices, planes that are not parallel or coincide, no contour, or a resolution out of
            range or too coarse for any of the contours.

    Paper: Shape-Based Interpolation of Multidimensional Objects (IEEE TMI 1990).
    """
    check_whole("resolution", resolution, least=8)
    check_number("resolution", resolution, most=512)
    if len(slices) < 2:
        raise UsageError(f"a solid needs at least two slices, got {len(slices)}")
    if not are_parallel(slices):
        raise UsageError("the planes are not parallel: distances cannot be interpolated between them; fit a SliceField")
    stack = _Stack.of(slices)
    if not any(len(each) for each in stack.contours):
        raise UsageError("no slice has a contour: there is no solid to see")
    low, step, shape = stack.grid(resolution)
    layers, owners = _layers(stack.heights, float(step.max()), resolution)
    values = np.empty((*shape, len(layers)), dtype=np.float32)
    before = _signed_distance(stack.contours[0], low, step, shape)
    for number in range(1, len(slices)):
        after = _signed_distance(stack.contours[number], low, step, shape)
        below, above = _with_depths(before, after, float(step.max()))
        start, end = stack.heights[number - 1], stack.heights[number]
        for layer in np.flatnonzero(owners == number):
            part = (layers[layer] - start) / (end - start)
            values[..., layer] = (1 - part) * below + part * above
        before = after
        if progress is not None:
            progress(number + 1, len(slices))
    return stack.lifted(_capped(values), low, step, layers)


@dataclass(frozen=True)
class _Stack:
    """Slices in the coordinates of the lowest one: x and y in its plane, heights along its normal."""

    origin: Float[np.ndarray, "3"]
    axes: Float[np.ndarray, "3 3"]
    heights: Float[np.ndarray, "S"]
    contours: list[list[Tensor]]

    @classmethod
    def of(cls, slices: Sequence[PlanarSlice]) -> _Stack:
        origin, plane = slices[0].origin.double().cpu(), slices[0].axes.double().cpu()
        axes = torch.cat([plane, torch.linalg.cross(*plane)[None]])
        ordered = sorted(
            (float((part.origin.double().cpu() - origin) @ axes[2]), number) for number, part in enumerate(slices)
        )
        heights = np.array([height for height, _ in ordered])
        extent = max(heights[-1] - heights[0], 1e-12)
        if (np.diff(heights) <= 1e-9 * extent).any():
            raise UsageError("two slices lie at one height: each needs a height of its own")
        contours = [
            [(slices[number].lift(each.double().cpu()) - origin) @ plane.T for each in slices[number].contours]
            for _, number in ordered
        ]
        return cls(origin.numpy(), axes.numpy(), heights, contours)

    def grid(self, resolution: int) -> tuple[np.ndarray, np.ndarray, tuple[int, int]]:
        """First place, steps and places along x and y, of a grid two steps larger than all contours."""
        vertices = torch.cat([each for part in self.contours for each in part])
        first, last = vertices.amin(0).numpy(), vertices.amax(0).numpy()
        extent = last - first
        if not (extent > 0).all():
            raise UsageError("the contours have no area")
        step = np.minimum(extent.max() / (resolution - 1), extent / LEAST_CELLS)
        count = np.ceil(extent / step).astype(int) + 4
        return first - 2 * step, step, (int(count[0]), int(count[1]))

    def lifted(self, surface: TriangleMesh, low: np.ndarray, step: np.ndarray, layers: np.ndarray) -> TriangleMesh:
        """A surface in steps of the grid, whose first and last layer are there twice, in space."""
        places = surface.vertices.double().numpy()
        doubled = np.concatenate([layers[:1], layers, layers[-1:]])
        height = np.interp(places[:, 2], np.arange(len(doubled)), doubled)
        own = np.column_stack([low + places[:, :2] * step, height])
        return TriangleMesh(torch.from_numpy(self.origin + own @ self.axes).float(), surface.faces)


def _layers(heights: np.ndarray, step: float, resolution: int) -> tuple[np.ndarray, np.ndarray]:
    """Heights of the grid's layers, and for each the number of the slice above it."""
    counts = np.maximum(1, np.round(np.diff(heights) / step)).astype(int)
    if counts.sum() + 1 > max(MOST_PLACES // 2, 2 * resolution):
        # So many slices, or so far apart, that layers at equal steps are taken, and slices lie between them.
        layers = np.linspace(heights[0], heights[-1], min(MOST_PLACES // 2, 2 * resolution))
        return layers, np.searchsorted(heights, layers).clip(1, len(heights) - 1)
    parts = [heights[:1]]
    for number, count in enumerate(counts):
        parts.append(np.linspace(heights[number], heights[number + 1], count + 1)[1:])
    return np.concatenate(parts), np.concatenate([[1], np.repeat(np.arange(1, len(heights)), counts)])


def _signed_distance(
    contours: Sequence[Tensor], low: np.ndarray, step: np.ndarray, shape: tuple[int, int]
) -> Float[np.ndarray, "X Y"] | None:
    """Distance of the grid's places to closed polygons, below 0 inside; None where there is none."""
    from scipy.spatial import cKDTree

    segments = contour_segments(contours)
    if not len(segments):
        return None
    start, along = segments[:, 0], segments[:, 1] - segments[:, 0]
    # Long edges in pieces of about a step, so that the nearest middle belongs to the nearest piece.
    count = np.ceil(np.linalg.norm(along, axis=1) / step.max()).clip(1).astype(int)
    edge = np.repeat(np.arange(len(segments)), count)
    part = np.arange(len(edge)) - np.repeat(np.cumsum(count) - count, count)
    along = along[edge] / count[edge][:, None]
    start = start[edge] + part[:, None] * along
    x, y = (low[axis] + step[axis] * np.arange(shape[axis]) for axis in range(2))
    places = np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2)
    _, nearest = cKDTree(start + along / 2).query(places, min(NEAREST, len(start)))
    nearest = nearest.reshape(len(places), -1)  # [N K]
    offset = places[:, None] - start[nearest]
    length = (along**2).sum(1).clip(1e-24)
    t = ((offset * along[nearest]).sum(-1) / length[nearest]).clip(0, 1)
    distance = np.linalg.norm(offset - t[..., None] * along[nearest], axis=-1).min(1).reshape(shape)
    inside = fill_segments(segments, (low[0], low[1]), (step[0], step[1]), shape)
    return np.where(inside, -distance, distance)


def _with_depths(before: np.ndarray | None, after: np.ndarray | None, step: float) -> tuple[np.ndarray, np.ndarray]:
    """The distances of two slices; an empty one is as far as the other is deep."""
    if before is not None and after is not None:
        return before, after
    known = before if after is None else after
    if known is None:
        return np.array(step), np.array(step)
    depth = np.array(max(float(-known.min()), 0.0))
    return (depth, known) if before is None else (known, depth)


def _capped(values: Float[np.ndarray, "X Y Z"]) -> TriangleMesh:
    """The level 0 in steps of the grid, with an outer layer at both ends: what is cut off there gets a face."""
    # As far above 0 as anything is below, so that along z the outer layer is above every value.
    outside = np.full((*values.shape[:2], 1), float(np.abs(values).max()) + 1, dtype=np.float32)
    doubled = torch.from_numpy(np.concatenate([outside, values, outside], 2))
    if not bool((doubled < 0).any()):
        raise UsageError("the contours are thinner than the grid: give a higher resolution")
    # Each axis in its own steps: `level_surface` takes one range for all of them.
    surface = level_surface(doubled, low=0.0, high=1.0)
    return TriangleMesh(surface.vertices * (torch.tensor(doubled.shape) - 1), surface.faces)
