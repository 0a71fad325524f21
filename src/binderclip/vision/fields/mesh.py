"""Triangle meshes: read out of a grid by marching tetrahedra, measured, and written as PLY or OBJ."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.files import write_whole
from binderclip.numeric import check_number

__all__ = ["TriangleMesh", "level_surface"]

SUFFIXES = (".ply", ".obj")
#: The six tetrahedra of a cube around its diagonal: corners as steps along (x, y, z), one for each order of the axes.
_TETRAHEDRA = np.array([
    np.concatenate([np.zeros((1, 3), int), np.cumsum(np.eye(3, dtype=int)[list(order)], 0)])
    for order in itertools.permutations(range(3))
])  # fmt: skip


@dataclass(frozen=True)
class TriangleMesh:
    """Vertices and triangles, whose corners go round counter-clockwise seen from outside.

    Attributes:
        vertices: (V, 3).
        faces: (F, 3), numbers of vertices.
    """

    vertices: Float[Tensor, "V 3"]
    faces: Int[Tensor, "F 3"]

    def _corners(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.vertices[self.faces].double().unbind(1)  # type: ignore[return-value]

    @property
    def area(self) -> float:
        """Sum of the triangles' areas."""
        a, b, c = self._corners()
        return float(torch.linalg.cross(b - a, c - a).norm(dim=1).sum() / 2)

    @property
    def volume(self) -> float:
        """Of what a closed mesh encloses: a sum over tetrahedra to the origin (divergence theorem)."""
        a, b, c = self._corners()
        return float((a * torch.linalg.cross(b, c)).sum() / 6)

    @property
    def is_closed(self) -> bool:
        """Whether every edge is passed once in each direction: the mesh has an inside and an outside everywhere."""
        edges = torch.cat([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]])
        count = len(self.vertices)
        there, back = (edges[:, 0] * count + edges[:, 1]).sort()[0], (edges[:, 1] * count + edges[:, 0]).sort()[0]
        return bool((there == back).all()) and bool((there[1:] != there[:-1]).all())

    @property
    def euler_characteristic(self) -> int:
        """Vertices less edges plus faces: 2 for each sphere, 0 for each torus."""
        edges = torch.cat([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]]).sort(1)[0]
        return len(self.vertices) - len(torch.unique(edges, dim=0)) + len(self.faces)

    def write(self, path: str | Path, comment: str = "") -> Path:
        """Write the mesh as PLY (binary) or OBJ, by the suffix; the file is there whole or not at all.

        Args:
            path: ends in .ply or .obj.
            comment: a line of ASCII near the file's beginning, such as who made it; empty for none.

        Raises:
            UsageError: another suffix, or a comment that is not one line of ASCII.
            OutputError: it cannot be written.
        """
        path = Path(path)
        if path.suffix.lower() not in SUFFIXES:
            raise UsageError(f"a mesh is written as {' or '.join(SUFFIXES)}, not as {path.name!r}")
        if not comment.isascii() or len(comment.splitlines()) > 1:
            raise UsageError(f"a comment is one line of ASCII, not {comment!r}")
        vertices, faces = self.vertices.detach().cpu().numpy(), self.faces.cpu().numpy()
        if path.suffix.lower() == ".obj":
            lines = [f"# {comment}"] if comment else []
            lines += [f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in vertices.tolist()]
            lines += [f"f {a} {b} {c}" for a, b, c in (faces + 1).tolist()]  # OBJ counts from 1
            return write_whole(path, "\n".join(lines) + "\n")
        head = ["ply", "format binary_little_endian 1.0", *([f"comment {comment}"] if comment else [])]
        head += [f"element vertex {len(vertices)}"]
        head += [f"property float {axis}" for axis in "xyz"]
        head += [f"element face {len(faces)}", "property list uchar int vertex_indices", "end_header"]
        rows = np.empty(len(faces), dtype=[("count", "u1"), ("corners", "<i4", 3)])
        rows["count"], rows["corners"] = 3, faces
        return write_whole(path, ("\n".join(head) + "\n").encode() + vertices.astype("<f4").tobytes() + rows.tobytes())


def level_surface(
    values: Float[Tensor, "X Y Z"], level: float = 0.0, *, low: float = -1.0, high: float = 1.0
) -> TriangleMesh:
    """The surface between what is below a level and what is not, by marching tetrahedra: always closed.

    Every cell of the grid is cut into six tetrahedra, in which the values are interpolated linearly. What is below the
    level at the grid's border is closed there. Triangles look from below the level to above it.

    Args:
        values: at the places of a grid, each axis at equal steps from `low` to `high`; 2 to 1024 along each.
        level: of the surface.
        low, high: the first and the last place of every axis.

    Raises:
        UsageError: a grid of another shape, values that are not finite, or a level that they do not cross.

    Paper: the tables are those of Regularised Marching Tetrahedra (Computers & Graphics 1999), without its clustering.
    """
    check_number("level", level)
    check_number("low", low, least=-1e9, most=1e9)
    check_number("high", high, above=low, most=1e9)
    if values.ndim != 3 or min(values.shape) < 2 or max(values.shape) > 1024:
        raise UsageError(f"values must be (X, Y, Z) with 2 to 1024 along each axis, not {tuple(values.shape)}")
    if not bool(values.isfinite().all()):
        raise UsageError("values of the grid are not finite")
    grid = values.detach().cpu().double().numpy() - level
    if not (grid < 0).any() or not (grid >= 0).any():
        raise UsageError(f"the values, {float(values.min()):g} to {float(values.max()):g}, do not cross {level:g}")
    step = (high - low) / (np.array(grid.shape) - 1)
    grid = np.pad(grid, 1, constant_values=np.abs(grid).max())  # closes the surface around what touches the border
    corners = _cut_tetrahedra(grid)  # [T 4] places of the grid
    inside = grid.reshape(-1)[corners] < 0
    # Corners below the level first: one, two or three of them.
    order = np.argsort(~inside, axis=1, kind="stable")
    corners = np.take_along_axis(corners, order, 1)
    below = inside.sum(1)
    edges = []  # [F 3 2]: each vertex lies on an edge from below to above
    for count, triangles in (
        (1, [[(0, 1), (0, 2), (0, 3)]]),
        (3, [[(0, 3), (1, 3), (2, 3)]]),
        (2, [[(0, 2), (0, 3), (1, 3)], [(0, 2), (1, 3), (1, 2)]]),
    ):
        edges += [corners[below == count][:, triangle] for triangle in triangles]
    chosen = _turned_outwards(np.concatenate(edges), grid.shape)
    keys = chosen.min(2) * np.int64(grid.size) + chosen.max(2)
    kept, faces = np.unique(keys, return_inverse=True)
    ends = np.stack([kept // grid.size, kept % grid.size], 1)
    heights = grid.reshape(-1)[ends]
    part = (heights[:, 0] / (heights[:, 0] - heights[:, 1]))[:, None]
    places = [np.stack(np.unravel_index(end, grid.shape), 1).astype(float) for end in ends.T]
    vertices = low + (places[0] + part * (places[1] - places[0]) - 1) * step
    return TriangleMesh(torch.from_numpy(vertices).float(), torch.from_numpy(faces.reshape(-1, 3)).long())


def _cut_tetrahedra(grid: np.ndarray) -> np.ndarray:
    """Corners of the tetrahedra that the level 0 cuts, as places of the flat grid."""
    below = grid < 0
    cubes = [below[x : x - 1 or None, y : y - 1 or None, z : z - 1 or None] for x, y, z in np.ndindex(2, 2, 2)]
    count = np.sum(cubes, axis=0)
    starts = np.argwhere((count > 0) & (count < 8))  # [M 3]
    places = np.ravel_multi_index(np.moveaxis(starts[:, None, None] + _TETRAHEDRA, -1, 0), grid.shape).reshape(-1, 4)
    inside = below.reshape(-1)[places].sum(1)
    return places[(inside > 0) & (inside < 4)]


def _turned_outwards(edges: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Triangles whose normal points from the ends below to those above; midpoints decide, so no area is 0."""
    ends = np.stack(np.unravel_index(edges, shape), -1).astype(float)  # [F 3 2 3]
    a, b, c = np.moveaxis(ends.mean(2), 1, 0)
    outwards = (ends[:, :, 1] - ends[:, :, 0]).sum(1)
    wrong = (np.cross(b - a, c - a) * outwards).sum(1) < 0
    edges[wrong] = edges[wrong][:, ::-1]
    return edges
