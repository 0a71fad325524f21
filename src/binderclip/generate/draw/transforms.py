"""Random views of a picture while it is drawn: what an objective likes in all of them is no accident of its pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.draw.gradients import clamp_with_grad
from binderclip.numeric import check_number, check_whole
from binderclip.settings import check_choice

__all__ = ["ImageTransform", "PerspectiveCutouts", "RandomCutouts", "warp_homography"]

ImageTransform = Callable[[Tensor, torch.Generator], Tensor]
"""From pictures [B, 3, H, W] in [0, 1] and the run's generator, on the CPU, to any number of views [N, 3, h, w]."""

_LUMA = (0.299, 0.587, 0.114)
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


@dataclass(frozen=True)
class RandomCutouts:
    """Square crops of random sizes, each turned, tilted, recoloured, partly erased and noisy: VQGAN-CLIP's views.

    A crop's side is drawn between `least` and 1 times the picture's shorter side, and resampled to `size`. Then each
    is flipped with probability `flip`, and each of these is done with `probability`: an affine map, a perspective, and
    a change of colours, each by view; and erasing of one rectangle, the same in all views. The views of picture b are
    rows b, B + b, 2 B + b, ...

    Args:
        count: views of each picture.
        size: side of a view in pixels: the model's input.
        sides: `uniform`, with `power`; or `normal`, of mean 0.8 and deviation 0.3, clipped, of later releases.
        least: smallest side as a part of the picture's shorter one, in (0, 1]; default `size` over it, at most 1, so
            that no crop is enlarged (a picture of the view's size is then seen as a whole).
        power: of the uniform number; above 1 makes more small crops.
        flip: probability of a horizontal flip.
        probability: of each further change.
        degrees, shear: of the affine map, in degrees to either side.
        translate: by up to this part of a side.
        distortion: of the perspective, as in `PerspectiveCutouts`.
        colour: change of brightness, contrast and saturation by up to this factor, and of hue by up to this turn.
        erase: (least, most) area of the rectangle, as a part of a view's; its width over height is in [0.3, 10/3].
        noise: largest standard deviation of Gaussian noise, drawn uniformly by view.
        fill: value beyond the picture and of the rectangle: 0, black.

    Raises:
        UsageError: a setting out of range.

    Paper: VQGAN-CLIP (arXiv 2204.08583).

    Examples:
        >>> views = RandomCutouts(4, 8)(torch.rand(2, 3, 16, 24), torch.Generator().manual_seed(0))
        >>> views.shape, bool((views >= 0).all() and (views <= 1).all())
        (torch.Size([8, 3, 8, 8]), True)
    """

    count: int = 32
    size: int = 224
    sides: Literal["uniform", "normal"] = "uniform"
    least: float | None = None
    power: float = 1.0
    flip: float = 0.5
    probability: float = 0.7
    degrees: float = 15.0
    shear: float = 5.0
    translate: float = 0.1
    distortion: float = 0.7
    colour: float = 0.1
    erase: tuple[float, float] = (0.1, 0.4)
    noise: float = 0.1
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_whole("count", self.count, least=1)
        check_whole("size", self.size, least=1)
        check_choice("sides", self.sides, ("uniform", "normal"))
        if self.least is not None:
            check_number("least", self.least, above=0, most=1)
        check_number("power", self.power, above=0, most=100)
        for name in ("flip", "probability", "translate", "noise", "fill"):
            check_number(name, getattr(self, name), least=0, most=1)
        check_number("colour", self.colour, least=0, most=0.5)
        check_number("distortion", self.distortion, least=0, most=0.95)
        check_number("degrees", self.degrees, least=0, most=180)
        check_number("shear", self.shear, least=0, most=80)
        check_number("erase", self.erase[0], least=0, most=1)
        check_number("erase", self.erase[1], least=self.erase[0], most=1)

    def __call__(self, images: Float[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "N 3 S S"]:
        """The views, N = B * count."""
        n = len(images) * self.count
        views = self._crops(images, generator)
        views = warp_homography(views, self._matrix(n, generator).to(views), self.fill)
        views = self._recoloured(views, generator)
        views = torch.where(self._rectangle(generator).to(views.device), self.fill, views)
        deviation = self.noise * torch.rand(n, 1, 1, 1, generator=generator)
        noise = deviation * torch.randn(views.shape, generator=generator)
        return clamp_with_grad(views + noise.to(views), 0.0, 1.0)

    def _crops(self, images: Float[Tensor, "B 3 H W"], generator: torch.Generator) -> Float[Tensor, "N 3 S S"]:
        height, width = images.shape[-2:]
        shorter = min(height, width)
        least = min(self.size / shorter, 1.0) if self.least is None else self.least
        n = len(images) * self.count
        if self.sides == "uniform":
            scale = least + (1 - least) * torch.rand(n, generator=generator) ** self.power
        else:
            scale = (0.8 + 0.3 * torch.randn(n, generator=generator)).clamp(least, 1)
        # on the CPU, as the generator is: their values cost no wait for the device
        side = (scale * shorter + 1e-4).long().clamp(min=1)  # float32's 0.9999 of a pixel is that pixel
        u = torch.rand(2, n, generator=generator)
        tops, lefts = ((u[0] * (height - side + 1)).long(), (u[1] * (width - side + 1)).long())
        places = zip(side.tolist(), tops.tolist(), lefts.tolist(), strict=True)
        crops = [
            images[i % len(images), :, top : top + s, left : left + s][None] for i, (s, top, left) in enumerate(places)
        ]
        resized = [F.interpolate(crop, (self.size, self.size), mode="bicubic", antialias=True) for crop in crops]
        return clamp_with_grad(torch.cat(resized), 0.0, 1.0)  # bicubic overshoots

    def _matrix(self, n: int, generator: torch.Generator) -> Float[Tensor, "N 3 3"]:
        """From places in a view to places in its crop, both in [-1, 1]: perspective, then affine map, then flip."""
        eye = torch.eye(3)
        chance = torch.rand(3, n, 1, 1, generator=generator)
        signed = 2 * torch.rand(4, n, generator=generator) - 1
        corners = torch.tensor(_CORNERS)
        inwards = self.distortion * torch.rand(n, 4, 2, generator=generator)
        perspective = _homography(corners * (1 - inwards), corners)
        angle, slant = math.radians(self.degrees) * signed[0], (math.radians(self.shear) * signed[1]).tan()
        affine = eye.repeat(n, 1, 1)
        affine[:, 0, 0], affine[:, 0, 1] = angle.cos(), angle.cos() * slant - angle.sin()
        affine[:, 1, 0], affine[:, 1, 1] = angle.sin(), angle.sin() * slant + angle.cos()
        affine[:, :2, 2] = 2 * self.translate * signed[2:].T  # a side is 2 long
        mirror = torch.diag(torch.tensor([-1.0, 1.0, 1.0]))
        flip = torch.where(chance[0] < self.flip, mirror, eye)
        affine = torch.where(chance[1] < self.probability, affine, eye)
        return flip @ affine @ torch.where(chance[2] < self.probability, perspective, eye)

    def _recoloured(self, views: Float[Tensor, "N 3 S S"], generator: torch.Generator) -> Float[Tensor, "N 3 S S"]:
        n = len(views)
        changed = torch.rand(n, generator=generator) < self.probability
        signed = (2 * torch.rand(4, n, generator=generator) - 1) * self.colour * changed
        brightness, contrast, saturation = (1 + signed[:3])[..., None, None].to(views)
        turn = (2 * math.pi * signed[3])[:, None, None].to(views)
        eye, third = torch.eye(3).to(views), torch.full((3, 3), 1 / 3).to(views)
        cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]).to(views) / math.sqrt(3)
        # hue turns about the grey axis (Rodrigues' formula); saturation 0 leaves the luma
        hue = turn.cos() * eye + (1 - turn.cos()) * third + turn.sin() * cross  # [N, 3, 3]
        luma = torch.tensor(_LUMA).to(views)
        matrix = brightness * (saturation * eye + (1 - saturation) * luma) @ hue
        coloured = torch.einsum("nij,njhw->nihw", matrix, views)
        mean = torch.einsum("c,nchw->n", luma, coloured)[:, None, None, None] / views[0, 0].numel()
        return mean + contrast[..., None] * (coloured - mean)

    def _rectangle(self, generator: torch.Generator) -> Bool[Tensor, "S S"]:
        """Whether a pixel is erased; in no view or in all."""
        u = torch.rand(5, generator=generator).tolist()
        area = self.erase[0] + (self.erase[1] - self.erase[0]) * u[0]
        ratio = 0.3 + (1 / 0.3 - 0.3) * u[1]
        height = min(round(self.size * math.sqrt(area / ratio)), self.size)
        width = min(round(self.size * math.sqrt(area * ratio)), self.size)
        erased = torch.zeros(self.size, self.size, dtype=torch.bool)
        if u[2] < self.probability:
            top, left = int(u[3] * (self.size - height + 1)), int(u[4] * (self.size - width + 1))
            erased[top : top + height, left : left + width] = True
        return erased


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
