"""Cross-sections as closed lines and as areas: contours of a picture, a mesh cut by a plane, points inside of lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.vision.fields.mesh import TriangleMesh
from binderclip.vision.fields.slices import PlanarSlice

__all__ = ["fill_segments", "mesh_section", "picture_slice", "resample_contour"]

HALF = 127.5
"""Of 8-bit values: 128 and above are inside; between pixels the contour lies where values cross it."""


def picture_slice(picture: UInt8[np.ndarray, "H W"], height: float) -> PlanarSlice:
    """The slice that a picture shows: values of 128 and above are the solid, and edges are met between pixels.

    A pixel is a unit wide. The plane's origin is the picture's middle, x goes right and y up; what touches the border
    ends there.

    Args:
        picture: 0 to 255.
        height: of the plane along z, in pixels.

    Raises:
        UsageError: no picture of one channel, or a height that is not finite.
    """
    from contourpy import contour_generator

    if picture.ndim != 2 or picture.dtype != np.uint8 or not picture.size:
        raise UsageError(f"a slice's picture must be (H, W) of 8 bits, not {picture.shape} of {picture.dtype}")
    check_number("height", height, least=-1e9, most=1e9)
    rows, columns = picture.shape
    padded = np.pad(picture.astype(np.float64), 1)  # so that every line is closed
    x = np.arange(-1, columns + 1) + 0.5 - columns / 2
    y = rows / 2 - (np.arange(-1, rows + 1) + 0.5)
    lines = contour_generator(x, y, padded).lines(HALF)
    contours = tuple(torch.from_numpy(line[:-1].copy()) for line in lines if len(line) > 3)
    return PlanarSlice(contours, torch.tensor([0.0, 0.0, float(height)]), torch.eye(3)[:2])


def resample_contour(contour: Float[Tensor, "V 2"], spacing: float, *, least: int = 8) -> Float[Tensor, "N 2"]:
    """The same closed polygon by vertices at equal steps along it.

    Args:
        contour: its last vertex is joined to the first.
        spacing: length of a step, above 0; steps are a little shorter, so that they are equal.
        least: vertices, 3 to 10^6.

    Raises:
        UsageError: a value out of range.
    """
    check_number("spacing", spacing, above=0, most=1e9)
    check_whole("least", least, least=3)
    points = torch.cat([contour, contour[:1]]).double()
    lengths = (points[1:] - points[:-1]).norm(dim=1)
    along = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    count = max(least, math.ceil(float(along[-1]) / spacing))
    places = np.arange(count) * (float(along[-1]) / count)
    columns = [np.interp(places, along.numpy(), points[:, axis].numpy()) for axis in range(2)]
    return torch.from_numpy(np.stack(columns, 1)).to(contour)


def mesh_section(mesh: TriangleMesh, part: PlanarSlice, offset: float = 0.0) -> Float[np.ndarray, "S 2 2"]:
    """The lines in which a plane cuts a mesh, in the plane's coordinates: a segment for each triangle that it cuts.

    Segments of neighbouring triangles share their ends to the bit, so that those of a closed mesh are closed lines.

    Args:
        mesh: any.
        part: its origin and axes are the plane; its contours do not matter.
        offset: along the plane's normal, the first axis x the second.

    Raises:
        UsageError: an offset that is not finite.
    """
    check_number("offset", offset, least=-1e9, most=1e9)
    axes = part.axes.double().cpu().numpy()
    normal = np.cross(axes[0], axes[1])
    vertices = mesh.vertices.double().cpu().numpy() - part.origin.double().cpu().numpy()
    distance = vertices @ normal - offset
    above = distance >= 0
    faces = mesh.faces.cpu().numpy()
    cut = faces[above[faces].any(1) & ~above[faces].all(1)]  # [S 3]
    edges = np.sort(np.stack([cut, np.roll(cut, -1, 1)], 2), 2)  # [S 3 2]: the same ends from both sides
    crossing = above[edges[..., 0]] != above[edges[..., 1]]  # two of three
    edges = edges[crossing].reshape(-1, 2, 2)
    first, second = distance[edges[..., 0]], distance[edges[..., 1]]
    weight = (first / (first - second))[..., None]
    flat = vertices @ axes.T  # [V 2]
    return flat[edges[..., 0]] * (1 - weight) + flat[edges[..., 1]] * weight


def contour_segments(contours: Sequence[Float[Tensor, "_ 2"]]) -> Float[np.ndarray, "S 2 2"]:
    """The edges of closed polygons."""
    parts = [np.zeros((0, 2, 2))]
    for contour in contours:
        start = contour.double().cpu().numpy()
        parts.append(np.stack([start, np.roll(start, -1, 0)], 1))
    return np.concatenate(parts)


def fill_segments(
    segments: Float[np.ndarray, "S 2 2"], low: tuple[float, float], step: tuple[float, float], shape: tuple[int, int]
) -> Bool[np.ndarray, "X Y"]:
    """Which points of a grid lie inside of closed lines: a ray in y crosses an odd number of segments.

    Args:
        segments: of lines that are closed, in any order.
        low: (x, y) of the first point.
        step: between points along x and along y, above 0.
        shape: points along x and along y.

    Raises:
        UsageError: a step that is not above 0, or no points.
    """
    for name, value, count in zip("xy", step, shape, strict=True):
        check_number(f"step in {name}", value, above=0, most=1e9)
        check_whole(f"points along {name}", count, least=1)
    ends = (segments - np.array(low)) / np.array(step)  # in steps of the grid
    left, right = ends[..., 0].min(1), ends[..., 0].max(1)
    # Columns i with left <= i < right: half open, so that a shared end counts once.
    first = np.ceil(left).clip(0, shape[0]).astype(np.int64)
    count = (np.ceil(right).clip(0, shape[0]).astype(np.int64) - first).clip(0)
    row = np.repeat(np.arange(len(ends)), count)
    column = first[row] + np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    (x0, y0), (x1, y1) = ends[row, 0].T, ends[row, 1].T
    crossed = y0 + (column - x0) / (x1 - x0) * (y1 - y0)
    begin = np.floor(crossed + 1).clip(0, shape[1]).astype(np.int64)  # the first point above the crossing
    toggled = np.zeros((shape[0], shape[1] + 1), dtype=np.int64)
    np.add.at(toggled, (column, begin), 1)
    return toggled[:, :-1].cumsum(1) % 2 == 1
