"""Pin-hole cameras."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError

__all__ = ["SplatCamera"]


@dataclass(frozen=True, eq=False)
class SplatCamera:
    """A pin-hole camera that looks along its z axis, x to the right and y down.

    Attributes:
        to_camera: from the world's coordinates to the camera's; a rotation and a shift.
        focal: (x, y) in pixels.
        size: (h, w) of the picture in pixels; its centre is the optical one.
    """

    to_camera: Float[Tensor, "4 4"]
    focal: tuple[float, float]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if tuple(self.to_camera.shape) != (4, 4):
            raise UsageError(f"to_camera must be (4, 4), not {tuple(self.to_camera.shape)}")
        if min(self.focal) <= 0 or min(self.size) < 1:
            raise UsageError(f"focal lengths and size must be positive, not {self.focal} and {self.size}")

    @staticmethod
    def looking_at(
        eye: Sequence[float],
        target: Sequence[float] = (0.0, 0.0, 0.0),
        *,
        size: tuple[int, int],
        fov: float = 50.0,
        up: Sequence[float] = (0.0, 1.0, 0.0),
    ) -> SplatCamera:
        """A camera at `eye` that has `target` in the middle of its picture.

        Args:
            eye, target, up: in the world's coordinates.
            size: (h, w) in pixels.
            fov: vertical field of view in degrees.

        Raises:
            UsageError: eye and target are one point, up points along the view, or a field of view out of (0, 180).
        """
        place, aim, above = (torch.tensor([float(v) for v in part]) for part in (eye, target, up))
        forward, length = aim - place, float((aim - place).norm())
        right = torch.linalg.cross(forward, above)
        if length < 1e-9 or float(right.norm()) < 1e-6 * length:
            raise UsageError(f"a camera at {tuple(eye)} cannot look at {tuple(target)} with {tuple(up)} as up")
        if not 0 < fov < 180:
            raise UsageError(f"fov must be between 0 and 180 degrees, not {fov}")
        forward, right = forward / length, right / right.norm()
        rotation = torch.stack([right, torch.linalg.cross(forward, right), forward])
        matrix = torch.eye(4)
        matrix[:3, :3], matrix[:3, 3] = rotation, -rotation @ place
        focal = size[0] / 2 / float(torch.tan(torch.deg2rad(torch.tensor(fov / 2))))
        return SplatCamera(matrix, (focal, focal), size)
