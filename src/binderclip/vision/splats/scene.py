"""`GaussianScene`: 3-D Gaussians, seen by cameras."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.vision.splats.camera import SplatCamera
from binderclip.vision.splats.ply import read_ply, write_ply

__all__ = ["GaussianScene", "SplatRender", "TileWeights"]

TILE = 16
"""Side of the squares of pixels that are blended together."""
SIDE_BY_SIDE = 512
"""Gaussians of a tile that are blended at once."""
BLUR, LEAST_ALPHA, MOST_ALPHA, OPAQUE, NEAR = 0.3, 1 / 255, 0.99, 1e-4, 0.05
"""Of 3D Gaussian Splatting: what is added to the variance of a footprint in square pixels, the alpha below which a
Gaussian is not drawn and the one at which it is cut, the transmittance at which a pixel is done, the least depth."""


@dataclass(frozen=True)
class SplatRender:
    """A picture of a scene.

    Attributes:
        image: colours over black.
        alpha: how much of each pixel is covered.
        depth: mean depth of what covers it, by weight; 0 where nothing does.
    """

    image: Float[Tensor, "3 H W"]
    alpha: Float[Tensor, "H W"]
    depth: Float[Tensor, "H W"]


@dataclass(frozen=True)
class TileWeights:
    """What Gaussians contribute to the pixels of one tile: alpha times the transmittance of all in front.

    Attributes:
        pixels: number of each pixel, row by row of the picture.
        gaussians: numbers of the Gaussians, nearest first.
        weights: of each Gaussian in each pixel.
    """

    pixels: Int[Tensor, "P"]
    gaussians: Int[Tensor, "G"]
    weights: Float[Tensor, "P G"]


@dataclass(frozen=True, eq=False)
class GaussianScene:
    """A scene of N anisotropic Gaussians, as 3D Gaussian Splatting has them, with one colour each.

    It renders in plain PyTorch, on the device of its tensors (`to` moves them); cameras may stay on the CPU.

    `render` is differentiable in everything; `blend` gives the weights that a picture is made with, which is what
    `segment.mask_votes` counts.

    Attributes:
        means: positions.
        scales: standard deviations along the Gaussian's own axes.
        rotations: quaternions (w, x, y, z) of its axes, of any length.
        opacities: in [0, 1].
        colours: red, green, blue in [0, 1].

    Raises:
        UsageError: shapes that do not belong together, or scales that are not positive.
    """

    means: Float[Tensor, "N 3"]
    scales: Float[Tensor, "N 3"]
    rotations: Float[Tensor, "N 4"]
    opacities: Float[Tensor, "N"]
    colours: Float[Tensor, "N 3"]

    def __post_init__(self) -> None:
        count = len(self.means)
        shapes = {"means": (count, 3), "scales": (count, 3), "rotations": (count, 4), "opacities": (count,)}
        for name, shape in {**shapes, "colours": (count, 3)}.items():
            if tuple(getattr(self, name).shape) != shape:
                raise UsageError(f"{name} must be {shape}, not {tuple(getattr(self, name).shape)}")
        if count and not bool((self.scales > 0).all()):
            raise UsageError("scales must be positive")

    def __len__(self) -> int:
        return len(self.means)

    def to(self, device: torch.device | str) -> GaussianScene:
        """The scene on another device."""
        return GaussianScene(*(getattr(self, part.name).to(device) for part in fields(self)))

    def subset(self, chosen: Bool[Tensor, "N"] | Int[Tensor, "M"]) -> GaussianScene:
        """The scene with these Gaussians alone."""
        parts = (self.means, self.scales, self.rotations, self.opacities, self.colours)
        return GaussianScene(*(part[chosen] for part in parts))

    def coloured(self, colours: Float[Tensor, "N 3"]) -> GaussianScene:
        """The scene in other colours."""
        return replace(self, colours=colours)

    def covariances(self) -> Float[Tensor, "N 3 3"]:
        """R S S^T R^T of each Gaussian."""
        w, x, y, z = F.normalize(self.rotations, dim=1).unbind(1)
        rows = [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ]  # fmt: skip
        axes = torch.stack(rows, 1).view(-1, 3, 3) * self.scales[:, None]
        return axes @ axes.mT

    def render(self, camera: SplatCamera) -> SplatRender:
        """The picture that a camera takes."""
        height, width = camera.size
        depth = self._in_camera(camera)[:, 2]
        values = torch.cat([self.colours, depth[:, None], torch.ones_like(depth)[:, None]], 1)
        pixels = self.means.new_zeros(height * width, 5)
        pieces, places = [], []
        for tile in self.blend(camera):
            pieces.append(tile.weights @ values[tile.gaussians])
            places.append(tile.pixels)
        if pieces:
            pixels = pixels.index_add(0, torch.cat(places), torch.cat(pieces))
        image = pixels.T.view(5, height, width)
        alpha = image[4]
        return SplatRender(image[:3], alpha, torch.where(alpha > 0, image[3] / alpha.clamp(min=1e-9), 0.0))

    def blend(self, camera: SplatCamera) -> Iterator[TileWeights]:
        """The blending weights of a picture, tile by tile, several parts of one where many Gaussians lie over it.

        For each pixel the weights of all parts and the transmittance that is left sum to 1.
        """
        height, width = camera.size
        projected = self._project(camera)
        if projected is None:
            return
        order, centre, conic, radius = projected
        low = ((centre - radius[:, None]) / TILE).floor().long().clamp(min=0)
        high = ((centre + radius[:, None]) / TILE).floor().long()
        columns, rows = -(-width // TILE), -(-height // TILE)
        for row in range(rows):
            in_row = ((low[:, 1] <= row) & (high[:, 1] >= row)).nonzero()[:, 0]
            if not len(in_row):
                continue
            for column in range(columns):
                here = in_row[(low[in_row, 0] <= column) & (high[in_row, 0] >= column)]
                if len(here):
                    yield from self._tile(here, order, centre, conic, (row, column), camera.size)

    def _tile(
        self, here: Tensor, order: Tensor, centre: Tensor, conic: Tensor, place: tuple[int, int], size: tuple[int, int]
    ) -> Iterator[TileWeights]:
        height, width = size
        y = torch.arange(place[0] * TILE, min((place[0] + 1) * TILE, height), device=centre.device)
        x = torch.arange(place[1] * TILE, min((place[1] + 1) * TILE, width), device=centre.device)
        grid_y, grid_x = torch.meshgrid(y, x, indexing="ij")
        pixels = (grid_y * width + grid_x).flatten()
        points = torch.stack([grid_x.flatten(), grid_y.flatten()], 1).to(centre) + 0.5
        left = centre.new_ones(len(pixels))
        for part in here.split(SIDE_BY_SIDE):
            away = points[:, None] - centre[part]  # (P, G, 2)
            a, b, c = conic[part].unbind(1)
            power = -0.5 * (a * away[..., 0] ** 2 + c * away[..., 1] ** 2) - b * away[..., 0] * away[..., 1]
            alpha = (self.opacities[order[part]] * power.exp()).clamp(max=MOST_ALPHA)
            alpha = torch.where(alpha >= LEAST_ALPHA, alpha, 0.0)
            behind = torch.cumprod(1 - alpha, 1) * left[:, None]
            before = torch.cat([left[:, None], behind[:, :-1]], 1)
            # A pixel ends with the first Gaussian that would bring its transmittance below the limit.
            weights = torch.where(behind >= OPAQUE, alpha * before, 0.0)
            yield TileWeights(pixels, order[part], weights)
            left = left - weights.sum(1)
            done = (behind < OPAQUE).any(1)
            if bool(done.all()):
                return
            left = torch.where(done, 0.0, left)

    def _in_camera(self, camera: SplatCamera) -> Float[Tensor, "N 3"]:
        matrix = camera.to_camera.to(self.means)
        return self.means @ matrix[:3, :3].T + matrix[:3, 3]

    def _project(self, camera: SplatCamera) -> tuple[Tensor, Tensor, Tensor, Tensor] | None:
        """Of the Gaussians that can be seen, nearest first: number, centre, inverse footprint (a, b, c), radius."""
        seen = self._in_camera(camera)
        order = (seen[:, 2] > NEAR).nonzero()[:, 0]
        order = order[seen[order, 2].detach().argsort(stable=True)]
        if not len(order):
            return None
        x, y, z = seen[order].unbind(1)
        height, width = camera.size
        (focal_x, focal_y), zero = camera.focal, torch.zeros_like(z)
        # Far outside the picture the linear approximation is limited, as in the original.
        limit_x, limit_y = 1.3 * width / 2 / focal_x, 1.3 * height / 2 / focal_y
        flat_x, flat_y = (x / z).clamp(-limit_x, limit_x) * z, (y / z).clamp(-limit_y, limit_y) * z
        jacobian = torch.stack(
            [focal_x / z, zero, -focal_x * flat_x / z**2, zero, focal_y / z, -focal_y * flat_y / z**2], 1
        ).view(-1, 2, 3)
        turned = jacobian @ camera.to_camera[:3, :3].to(self.means)
        spread = turned @ self.covariances()[order] @ turned.mT  # (M, 2, 2)
        a, b, c = spread[:, 0, 0] + BLUR, spread[:, 0, 1], spread[:, 1, 1] + BLUR
        determinant = a * c - b * b
        conic = torch.stack([c, -b, a], 1) / determinant[:, None]
        middle = 0.5 * (a + c)
        widest = middle + (middle * middle - determinant).clamp(min=0.1).sqrt()
        # As far as the Gaussian can reach the least alpha: three deviations at most, as in the original.
        reach = (2 * (self.opacities[order] / LEAST_ALPHA).clamp(min=1).log()).sqrt().clamp(max=3.0)
        centre = torch.stack([focal_x * x / z + width / 2, focal_y * y / z + height / 2], 1)
        radius = (reach * widest.sqrt()).detach()
        inside = (
            (centre[:, 0] + radius > 0) & (centre[:, 0] - radius < width)
            & (centre[:, 1] + radius > 0) & (centre[:, 1] - radius < height) & (radius > 0)
        )  # fmt: skip
        if not bool(inside.any()):
            return None
        return order[inside], centre[inside], conic[inside], radius[inside]

    def save(self, path: str | Path) -> None:
        """Write the usual PLY file; see `splats.ply`."""
        write_ply((self.means, self.scales, self.rotations, self.opacities, self.colours), path)

    @staticmethod
    def load(path: str | Path) -> GaussianScene:
        """Read the usual PLY file; see `splats.ply`.

        Raises:
            DataError: it is none.
        """
        return GaussianScene(*read_ply(path))
