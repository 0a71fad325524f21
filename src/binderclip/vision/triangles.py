"""Triangles on pixels: what is visible where, without a gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_whole

__all__ = ["Fragments", "rasterize"]

PAIRS = 2**20
"""So many pairs of a triangle and a pixel of its bounding box are tested at once: about 100 MB."""


@dataclass(frozen=True)
class Fragments:
    """What a pixel shows; the names are PyTorch3D's.

    Attributes:
        pix_to_face: number of the visible triangle (the ID buffer); -1 where there is none.
        bary_coords: barycentric coordinates of the pixel's centre in it, in the order of its corners; 0 where there is
            none. With them the UV buffer is `(bary_coords[..., None] * uv[faces[pix_to_face]]).sum(-2)`.
        zbuf: depth there; infinity where there is none.
    """

    pix_to_face: Int[Tensor, "H W"]
    bary_coords: Float[Tensor, "H W 3"]
    zbuf: Float[Tensor, "H W"]


@torch.no_grad()
def rasterize(vertices: Float[Tensor, "V D"], faces: Int[Tensor, "F 3"], size: tuple[int, int]) -> Fragments:
    """Draws triangles with a depth buffer: for each pixel the nearest one that covers its centre.

    No anti-aliasing and no gradient, as ordinary renderers have none: `generate.estimate_gradient` optimises through
    it. Triangles are drawn from both sides, those without area not at all. A centre on an edge that two triangles
    share belongs to one of them, so a mesh has no cracks.

    Args:
        vertices: x to the right and y down, in pixels: the centre of the first one is (0.5, 0.5). A third column is the
            depth, linear over the screen as that of a depth buffer is; without it all are equally deep.
        faces: numbers of each triangle's vertices. Of equally deep ones the last is drawn over the others.
        size: (H, W) of the picture.

    Raises:
        UsageError: vertices that are not finite or of another shape, faces that name none, or sizes below 1.

    Examples:
        >>> corners = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
        >>> rasterize(corners, torch.tensor([[0, 1, 2]]), (3, 4)).pix_to_face
        tensor([[ 0,  0,  0,  0],
                [ 0,  0,  0, -1],
                [ 0,  0, -1, -1]])
    """
    for name, value in zip(("height", "width"), size, strict=True):
        check_whole(name, value, least=1)
    _check_mesh(vertices, faces)
    (height, width), device = size, vertices.device
    corners = vertices[faces, :2]  # [F, 3, 2]
    limit = torch.tensor((width - 1, height - 1), dtype=vertices.dtype, device=device)
    # First and last pixel whose centre lies in the bounding box; a triangle beside the picture has an empty one.
    low = (corners.amin(1) - 0.5).ceil().clamp(min=0).minimum(limit + 1).long()
    high = (corners.amax(1) - 0.5).floor().clamp(min=-1).minimum(limit).long()
    extent = (high - low + 1).clamp(min=0)
    count = extent.prod(1)
    zbuf = torch.full((height * width,), torch.inf, dtype=vertices.dtype, device=device)
    nearest = torch.full((height * width,), -1, device=device)
    for chunk in _chunks(count):
        face = chunk.repeat_interleave(count[chunk])  # (N), a row for each pair of triangle and pixel
        start = count[chunk].cumsum(0) - count[chunk]
        place = torch.arange(len(face), device=device) - start.repeat_interleave(count[chunk])
        across = extent[face, 0]
        column, row = low[face, 0] + place % across, low[face, 1] + place // across
        weights = _barycentric(corners[face], torch.stack((column, row), 1) + 0.5)
        covered = (weights >= 0).all(1)  # NaN, of triangles without area, covers nothing
        face, pixel, weights = face[covered], (row * width + column)[covered], weights[covered]
        depth = (weights * vertices[faces[face], 2]).sum(1) if vertices.shape[1] == 3 else weights.new_zeros(len(face))
        zbuf.scatter_reduce_(0, pixel, depth, "amin")
        front = depth == zbuf[pixel]
        latest = torch.full_like(nearest, -1).scatter_reduce_(0, pixel[front], face[front], "amax")
        nearest = torch.where(latest >= 0, latest, nearest)
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    centres = torch.stack((columns, rows), -1).reshape(-1, 2) + 0.5
    empty = (nearest < 0)[:, None]
    if len(faces):
        weights = _barycentric(corners[nearest.clamp(min=0)], centres).masked_fill(empty, 0)
    else:
        weights = vertices.new_zeros(height * width, 3)
    return Fragments(nearest.reshape(size), weights.reshape(*size, 3), zbuf.reshape(size))


def _barycentric(corners: Float[Tensor, "N 3 2"], points: Float[Tensor, "N 2"]) -> Float[Tensor, "N 3"]:
    """The points' weights; NaN or infinite where a triangle has no area.

    Each is the area of the triangle opposite to its corner: the same numbers, with the other sign, for both triangles
    at an edge.
    """
    offsets = corners - points.to(corners.dtype)[:, None]
    x, y = offsets.unbind(2)
    ahead, behind = [1, 2, 0], [2, 0, 1]
    areas = x[:, ahead] * y[:, behind] - x[:, behind] * y[:, ahead]
    return areas / areas.sum(1, keepdim=True)


def _chunks(count: Int[Tensor, "F"]) -> list[Int[Tensor, "_"]]:
    """Numbers of the triangles with pixels to test, in groups of about `PAIRS` pixels."""
    drawn = count.nonzero().flatten()
    if not len(drawn):
        return []
    group = count[drawn].cumsum(0) // PAIRS
    return list(drawn.split(torch.unique_consecutive(group, return_counts=True)[1].tolist()))


def _check_mesh(vertices: Tensor, faces: Tensor) -> None:
    if vertices.ndim != 2 or vertices.shape[1] not in (2, 3) or not vertices.is_floating_point():
        raise UsageError(f"vertices must be floating-point rows (x, y) or (x, y, depth), not {tuple(vertices.shape)}")
    if not bool(vertices.isfinite().all()):
        raise UsageError("vertices must be finite")
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype != torch.long:
        raise UsageError(f"faces must be rows of three whole numbers, not {tuple(faces.shape)} of {faces.dtype}")
    if faces.numel() and not 0 <= int(faces.min()) <= int(faces.max()) < len(vertices):
        raise UsageError(f"faces must be numbers of {len(vertices)} vertices, got {int(faces.min())}..{faces.max()}")
