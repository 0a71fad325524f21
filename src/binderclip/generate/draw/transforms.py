"""Random views of a picture while it is drawn: what an objective likes in all of them is no accident of its pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["ImageTransform", "PerspectiveCutouts", "warp_homography"]

ImageTransform = Callable[[Tensor, torch.Generator], Tensor]
"""From pictures [B, 3, H, W] in [0, 1] and the run's generator, on the CPU, to any number of views [N, 3, h, w]."""

_CORNERS = ((-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0))


@dataclass(frozen=True)
class PerspectiveCutouts:
    """Random views through a tilted camera, each a random crop of it: the augmentation of CLIPDraw.

    Both are one homography, so a picture is resampled once. The views of picture b are rows b, B + b, 2 B + b, ...

    Args:
        count: views of each picture.
        distortion: corners move inwards by up to this part of half a side, in x and y apart; in [0, 1].
        scale: (least, most) area of the crop, as a part of the picture's, at most 1.
        ratio: (least, most) width over height of the crop, drawn log-uniformly; a side is at most the picture's.
        fill: value beyond the picture: 1, white.

    Raises:
        UsageError: a setting out of range.

    Paper: CLIPDraw (arXiv 2106.14843).

    Examples:
        >>> views = PerspectiveCutouts(4)(torch.ones(2, 3, 16, 16), torch.Generator().manual_seed(0))
        >>> views.shape, bool((views == 1).all())
        (torch.Size([8, 3, 16, 16]), True)
    """

    count: int = 4
    distortion: float = 0.5
    scale: tuple[float, float] = (0.7, 0.9)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    fill: float = 1.0

    def __post_init__(self) -> None:
        check_whole("count", self.count, least=1)
        # at 1 the four corners may meet in one point, which no homography does
        check_number("distortion", self.distortion, least=0, most=0.95)
        check_number("fill", self.fill, least=0, most=1)
        for name, (low, high), most in (("scale", self.scale, 1.0), ("ratio", self.ratio, 10.0)):
            check_number(name, low, above=0, most=most)
            check_number(name, high, least=low, most=most)

    def __call__(self, images: Float[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "N 3 H W"]:
        """The views, N = B * count."""
        n = len(images) * self.count
        crop = torch.rand(n, 4, generator=generator)
        inwards = self.distortion * torch.rand(n, 4, 2, generator=generator)
        corners = torch.tensor(_CORNERS)
        matrix = _homography(corners * (1 - inwards), corners) @ self._crop(crop, images.shape[-1] / images.shape[-2])
        return warp_homography(images.repeat(self.count, 1, 1, 1), matrix.to(images), self.fill)

    def _crop(self, u: Float[Tensor, "N 4"], aspect: float) -> Float[Tensor, "N 3 3"]:
        """From places in a crop to places in the whole, both in [-1, 1]; u in [0, 1], aspect = W / H."""
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 0]
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        ratio = torch.exp(low + (high - low) * u[:, 1])
        width, height = (area * ratio / aspect).sqrt().clamp(max=1), (area / ratio * aspect).sqrt().clamp(max=1)
        matrix = torch.zeros(len(u), 3, 3)
        matrix[:, 0, 0], matrix[:, 1, 1], matrix[:, 2, 2] = width, height, 1
        matrix[:, 0, 2], matrix[:, 1, 2] = (1 - width) * (2 * u[:, 2] - 1), (1 - height) * (2 * u[:, 3] - 1)
        return matrix


def warp_homography(
    images: Float[Tensor, "N C H W"], matrix: Float[Tensor, "N 3 3"], fill: float = 1.0
) -> Float[Tensor, "N C H W"]:
    """Pictures seen through homographies, bilinear; affine maps are those whose last row is (0, 0, 1).

    Args:
        images: one for each matrix.
        matrix: from (x, y, 1) in the result to places in the picture, x to the right and y down, [-1, 1] its borders.
        fill: value beyond the picture.

    Raises:
        UsageError: numbers of pictures and matrices differ.
    """
    if matrix.shape != (len(images), 3, 3):
        raise UsageError(f"{len(images)} pictures need matrices ({len(images)}, 3, 3), got {tuple(matrix.shape)}")
    height, width = images.shape[-2:]
    x = (torch.arange(width, device=images.device, dtype=images.dtype) * 2 + 1) / width - 1  # centres of pixels
    y = (torch.arange(height, device=images.device, dtype=images.dtype) * 2 + 1) / height - 1
    place = torch.stack(
        [x.expand(height, width), y[:, None].expand(height, width), torch.ones_like(x).expand(height, width)], -1
    )
    source = torch.einsum("nij,hwj->nhwi", matrix, place)
    grid = source[..., :2] / source[..., 2:].clamp(min=1e-4)  # what lies behind the camera goes far out, to the fill
    # Beyond the picture grid_sample gives 0: what it samples is the difference from the fill.
    return F.grid_sample(images - fill, grid, padding_mode="zeros", align_corners=False) + fill


def _homography(source: Float[Tensor, "N 4 2"], target: Float[Tensor, "4 2"]) -> Float[Tensor, "N 3 3"]:
    """The homographies that take four points to four others, h33 = 1."""
    x, y = source.unbind(-1)
    one, zero = torch.ones_like(x), torch.zeros_like(x)
    u, v = (part.expand_as(x) for part in target.unbind(-1))
    # u (h31 x + h32 y + 1) = h11 x + h12 y + h13, and the same for v: eight linear equations
    rows = torch.cat(
        [
            torch.stack([x, y, one, zero, zero, zero, -u * x, -u * y], -1),
            torch.stack([zero, zero, zero, x, y, one, -v * x, -v * y], -1),
        ],
        1,
    )  # [N, 8, 8]
    solution = torch.linalg.solve(rows, torch.cat([u, v], 1))
    return torch.cat([solution, solution.new_ones(len(solution), 1)], 1).reshape(-1, 3, 3)
