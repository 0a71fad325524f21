"""Meshes as pictures: orthographic, with smooth shading by two lights and a depth buffer, without a GPU."""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole
from binderclip.vision.fields.mesh import TriangleMesh
from binderclip.vision.triangles import rasterize

__all__ = ["shaded_view"]

FINER, MARGIN = 2, 0.06
"""Samples of a pixel along each axis, and what stays free around the mesh, as a share of the picture."""
AMBIENT, LIGHTS = 0.28, (((-0.5, 0.6, 0.8), 0.62), ((0.8, -0.1, 0.4), 0.22))
"""Light from everywhere, and (direction in the view's axes: right, up, to the viewer; strength) of the two lamps."""
GLOSS, SHINE = 0.16, 24
"""Strength and exponent of the highlight of the first lamp (Blinn-Phong)."""
GAMMA = 2.2


def shaded_view(
    mesh: TriangleMesh, *, azimuth: float = 35.0, elevation: float = 25.0, side: int = 448,
    colour: tuple[float, float, float] = (0.55, 0.66, 0.82),
) -> UInt8[np.ndarray, "S S 3"]:  # fmt: skip
    """A mesh seen from a direction, on white, as large as it fits.

    Parallel projection; z points up in the picture. Normals are means over the faces around a vertex by their area, so
    that the triangles of a level surface are not seen.

    Args:
        mesh: with at least one face.
        azimuth: of the viewer around z in degrees, from the negative y axis towards positive x.
        elevation: of the viewer above the xy plane in degrees, in [-90, 90].
        side: of the picture in pixels, 16 to 4096.
        colour: of the mesh, linear red, green and blue in [0, 1].

    Raises:
        UsageError: a value out of range, or a mesh without faces.
    """
    check_number("azimuth", azimuth, least=-1e4, most=1e4)
    check_number("elevation", elevation, least=-90, most=90)
    check_whole("side", side, least=16)
    check_number("side", side, most=4096)
    if not len(mesh.faces):
        raise UsageError("the mesh has no faces")
    view = _view_axes(math.radians(azimuth), math.radians(elevation))  # [3 3]: right, up, to the viewer
    seen = mesh.vertices.double().cpu() @ view.T
    low, high = seen.amin(0), seen.amax(0)
    size = side * FINER
    scale = size * (1 - 2 * MARGIN) / max(float((high - low)[:2].max()), 1e-12)
    centred = (seen - (low + high) / 2) * scale
    screen = torch.stack([size / 2 + centred[:, 0], size / 2 - centred[:, 1], -centred[:, 2]], 1).float()
    faces = mesh.faces.cpu()
    if mesh.is_closed:  # its far side is behind its near side: half of the work
        a, b, c = screen[faces, :2].unbind(1)
        across = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
        faces = faces[across < 0]  # y goes down, so that what turns left is negative
    fragments = rasterize(screen, faces, (size, size))
    shown = fragments.pix_to_face >= 0
    corners = _vertex_normals(mesh)[faces][fragments.pix_to_face[shown]]  # [P 3 3]
    normal = (fragments.bary_coords[shown][..., None].double() * corners).sum(1) @ view.T
    normal = torch.nn.functional.normalize(normal, dim=1, eps=1e-12)
    linear = torch.ones(size, size, 3, dtype=torch.float64)
    linear[shown] = _shaded(normal, torch.tensor(colour, dtype=torch.float64))
    small = torch.nn.functional.avg_pool2d(linear.permute(2, 0, 1)[None], FINER)[0].permute(1, 2, 0)
    return (255 * small.clamp(0, 1) ** (1 / GAMMA)).round().to(torch.uint8).numpy()


def _view_axes(azimuth: float, elevation: float) -> Float[Tensor, "3 3"]:
    """Directions in space of the picture's right and up, and to the viewer."""
    viewer = torch.tensor([
        math.sin(azimuth) * math.cos(elevation), -math.cos(azimuth) * math.cos(elevation), math.sin(elevation),
    ], dtype=torch.float64)  # fmt: skip
    right = torch.tensor([math.cos(azimuth), math.sin(azimuth), 0.0], dtype=torch.float64)
    return torch.stack([right, torch.linalg.cross(viewer, right), viewer])


def _vertex_normals(mesh: TriangleMesh) -> Float[Tensor, "V 3"]:
    """Sums of the normals of the faces around each vertex, as long as the faces are large."""
    vertices, faces = mesh.vertices.double().cpu(), mesh.faces.cpu()
    a, b, c = vertices[faces].unbind(1)
    across = torch.linalg.cross(b - a, c - a)
    return torch.zeros_like(vertices).index_add_(0, faces.flatten(), across.repeat_interleave(3, 0))


def _shaded(normal: Float[Tensor, "P 3"], colour: Float[Tensor, "3"]) -> Float[Tensor, "P 3"]:
    """Linear light that comes from a surface to the viewer, who is at +z."""
    light = torch.full((len(normal),), AMBIENT, dtype=normal.dtype)
    highlight = torch.zeros_like(light)
    for number, (direction, strength) in enumerate(LIGHTS):
        lamp = torch.nn.functional.normalize(torch.tensor(direction, dtype=normal.dtype), dim=0)
        light = light + strength * (normal @ lamp).clamp(min=0)
        if number == 0:
            half = torch.nn.functional.normalize(lamp + torch.tensor([0, 0, 1.0], dtype=normal.dtype), dim=0)
            highlight = GLOSS * (normal @ half).clamp(min=0) ** SHINE
    return light[:, None] * colour + highlight[:, None]
