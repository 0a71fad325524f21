"""Junctions: three wedges that meet at a vertex, as the model of the patch around each pixel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["JunctionField"]

TINY = 1e-12
"""Inside square roots, whose slope at a vertex would be infinite."""


@dataclass(frozen=True, eq=False)
class JunctionField:
    """A junction of M wedges for each of h x w patches: where its boundaries run in the patch, and what lies between.

    A patch has coordinates from -1 to 1, x to the right and y down; the outermost pixels' centres are at the ends.

    Attributes:
        heading: unit vector (x, y) along which the first boundary leaves the vertex.
        openings: angle of each wedge in radians, in the direction from x to y; their sum is 2 pi.
        vertex: (x, y), which may lie outside the patch.

    Paper: Boundary Attention: Learning to Find Faint Boundaries at Any Resolution (arXiv 2401.00935).
    """

    heading: Float[Tensor, "B 2 h w"]
    openings: Float[Tensor, "B M h w"]
    vertex: Float[Tensor, "B 2 h w"]

    @classmethod
    def from_raw(cls, raw: Float[Tensor, "B _ h w"]) -> JunctionField:
        """Junctions from M + 4 free numbers a patch: heading 2, openings M, vertex 2; differentiable everywhere.

        Args:
            raw: of any size. The heading is the direction of the first two's tanh, openings are sigmoids brought to a
                sum of 2 pi.

        Raises:
            UsageError: fewer than five numbers a patch.
        """
        if raw.ndim != 4 or raw.shape[1] < 5:
            raise UsageError(f"raw must be (B, M + 4, h, w) with a wedge at least, not {tuple(raw.shape)}")
        heading, openings, vertex = raw[:, :2].tanh(), raw[:, 2:-2].sigmoid(), raw[:, -2:]
        length = (heading.square().sum(1, keepdim=True) + TINY).sqrt()
        return cls(heading / length, 2 * math.pi * openings / openings.sum(1, keepdim=True), vertex)

    @classmethod
    def of_angles(
        cls,
        angle: Float[Tensor, "B h w"],
        openings: Float[Tensor, "B M h w"],
        vertex: Float[Tensor, "B 2 h w"],
    ) -> JunctionField:
        """Junctions from the angle of the first boundary, in radians; openings are brought to a sum of 2 pi.

        Raises:
            UsageError: shapes that do not belong together.
        """
        places = angle.shape[:1] + angle.shape[1:]
        if openings.shape[:1] + openings.shape[2:] != places or vertex.shape != (places[0], 2, *places[1:]):
            raise UsageError(
                f"angle (B, h, w), openings (B, M, h, w) and vertex (B, 2, h, w), not {tuple(angle.shape)}, "
                f"{tuple(openings.shape)} and {tuple(vertex.shape)}"
            )
        heading = torch.stack([angle.cos(), angle.sin()], dim=1)
        return cls(heading, 2 * math.pi * openings / openings.sum(1, keepdim=True), vertex)

    def wedges(self, size: int, *, eta: float = 1e-4) -> Float[Tensor, "B M R R h w"]:
        """How much each pixel of a patch belongs to each wedge; sums to 1 over the wedges.

        Args:
            size: side R of the patch in pixels.
            eta: softness of the boundaries, in patch coordinates.

        Raises:
            UsageError: a size below 2, or an eta that is not positive.
        """
        check_number("eta", eta, above=0)
        dx, dy, radius = self._from_vertex(size)
        x, y = self._turned(self.openings.cumsum(1) - self.openings / 2)
        # A ray is in a wedge where its angle to the middle is below half the opening.
        inside = dx * x + dy * y - radius * (self.openings / 2).cos()[:, :, None, None]
        wedges = 0.5 + torch.atan(inside / eta) / math.pi
        return wedges / wedges.sum(1, keepdim=True)

    def distance(self, size: int) -> Float[Tensor, "B R R h w"]:
        """Distance of each pixel of a patch from the nearest boundary, in pixels.

        The released program takes R / 2 pixels as half a patch; it is (R - 1) / 2 from the first centre to the last.

        Raises:
            UsageError: a size below 2.
        """
        along, across, radius = self._along_boundaries(size)
        # Behind the vertex the nearest point of a boundary is the vertex.
        return torch.where(along > 0, across.abs(), radius).amin(1) * (size - 1) / 2

    def boundary(self, size: int, *, delta: float = 1e-3) -> Float[Tensor, "B R R h w"]:
        """How much of a boundary each pixel of a patch is: 1 on it, and falling beside it faster far from the vertex.

        The relaxed Dirac function of the released program: 1 / (1 + ((r . d - |r|) |r| / delta)^2), the largest over
        the directions d of the boundaries.

        Args:
            size: side R of the patch in pixels.
            delta: softness.

        Raises:
            UsageError: a size below 2, or a delta that is not positive.
        """
        check_number("delta", delta, above=0)
        along, _, radius = self._along_boundaries(size)
        return (1 / (1 + ((along - radius) * radius / delta).square())).amax(1)

    def _from_vertex(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """x (B, 1, 1, R, h, w), y (B, 1, R, 1, h, w) and length (B, 1, R, R, h, w) of each pixel from the vertex."""
        check_whole("size", size, least=2)
        at = torch.linspace(-1, 1, size, dtype=self.vertex.dtype, device=self.vertex.device)
        dx = at[:, None, None] - self.vertex[:, 0, None, None, None]
        dy = at[:, None, None, None] - self.vertex[:, 1, None, None, None]
        return dx, dy, (dx.square() + dy.square() + TINY).sqrt()

    def _turned(self, angle: Float[Tensor, "B M h w"]) -> tuple[Tensor, Tensor]:
        """x and y (B, M, 1, 1, h, w) of the heading turned by angles."""
        cos, sin, (x, y) = angle.cos(), angle.sin(), self.heading.split(1, dim=1)
        return (x * cos - y * sin)[:, :, None, None], (x * sin + y * cos)[:, :, None, None]

    def _along_boundaries(self, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates of each pixel along and across each boundary (B, M, R, R, h, w), and its distance."""
        dx, dy, radius = self._from_vertex(size)
        x, y = self._turned(self.openings.cumsum(1) - self.openings)
        return dx * x + dy * y, dy * x - dx * y, radius
