"""Random views of a batch of pictures for training, computed on the whole batch at once.

Two ideas make it fast: the picture is resampled once, by one affine map that holds crop, turn and mirror; and colours
change by one 3 x 4 matrix a picture, applied to premultiplied RGBA, whose fourth column is what contrast adds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn import functional as F

from binderclip.data.augment.cutout import Cutout
from binderclip.data.labelled.pseudo_labels import LabelKind
from binderclip.data.uniform import uniform
from binderclip.errors import UsageError

BACKGROUNDS = ("plain", "gradient", "noise")
PLAIN: dict[str, Any] = {
    "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0, "rotate": 0.0, "brightness": 0.0, "contrast": 0.0,
    "saturation": 0.0, "hue": 0.0, "grey": 0.0, "white": 1.0, "paint": 0.0,
}  # fmt: skip
"""Settings of `Augment` that change nothing: pictures on white, resized."""

_LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601
_CELLS = 8  # a "noise" background is this many random colours a side, interpolated
_PART = 400_000  # values that are worked on at a time on a CPU: 1.6 MB
_DRAWS = 24  # numbers in [0, 1) a picture uses besides the background's cells


@dataclass(frozen=True)
class Augment:
    """Random resized crop, turn, mirror, colour jitter, and a random background under transparent parts.

    What happens to a picture depends on (seed, its key, the epoch) only: not on the worker, the process, the order or
    the other pictures of the batch.

    Args:
        size: side of the square result, in pixels.
        scale: (least, most) area of the crop as a fraction of the picture. More than 1 zooms out, only for RGBA.
        ratio: (least, most) width / height of the crop, drawn log-uniformly.
        flip: probability of a mirror image (left-right).
        rotate: largest turn either way, in degrees.
        brightness, contrast, saturation: largest change of the factor from 1; 0.2 draws from [0.8, 1.2].
        hue: largest turn of the hue either way, as a fraction of the circle.
        grey: probability of losing all colour.
        background: kinds to draw from: "plain" (one colour), "gradient", "noise" (cloudy).
        white: probability of plain white instead. Jitter never changes the background.
        paint: probability that an all-black drawing (an icon whose shape is its alpha) is painted in a random colour.
            All-black drawings never lie on a dark background unpainted, nor painted in its brightness.
        cutout: takes squares out of the result (the last step); its `fill` is a colour in [0, 1]. Default None.
        seed: any integer.

    Call it with `pixels`, uint8 (B, 4, H, W) with straight alpha or (B, 3, H, W), or floats in [0, 1] of these shapes;
    `keys`, B strings; and the `epoch`. The result is float32 (B, 3, size, size) in [0, 1] on the device of `pixels`.

    Raises:
        UsageError: a setting or a shape is wrong.

    Examples:
        >>> pixels = torch.randint(256, (2, 4, 80, 80), dtype=torch.uint8)
        >>> Augment(64, seed=1)(pixels, ["first", "second"], epoch=0).shape
        torch.Size([2, 3, 64, 64])
    """

    size: int
    scale: tuple[float, float] = (0.6, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: float = 0.5
    rotate: float = 10.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.02
    grey: float = 0.05
    background: Sequence[str] = BACKGROUNDS
    white: float = 0.3
    paint: float = 0.5
    cutout: Cutout | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.size < 1:
            raise UsageError(f"Augment: size is {self.size}; it is a number of pixels")
        for name, (low, high) in {"scale": self.scale, "ratio": self.ratio}.items():
            if not 0 < low <= high:
                raise UsageError(f"Augment: {name} is {(low, high)}; it is (least, most) with 0 < least <= most")
        for name in ("flip", "grey", "white", "paint", "brightness", "contrast", "saturation"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"Augment: {name} is {getattr(self, name)}; it lies in [0, 1]")
        if not (0 <= self.hue <= 0.5 and 0 <= self.rotate <= 180):
            raise UsageError(f"Augment: hue {self.hue} lies in [0, 0.5], rotate {self.rotate} in [0, 180] degrees")
        if not (self.cutout is None or isinstance(self.cutout, Cutout)):
            raise UsageError(f"Augment: cutout is {self.cutout!r}; it is a Cutout, such as Cutout(16), or None")
        kinds = [self.background] if isinstance(self.background, str) else list(self.background)
        unknown = [kind for kind in kinds if kind not in BACKGROUNDS]
        if unknown or not kinds:
            raise UsageError(f"Augment: background {unknown or kinds}; choose from {', '.join(BACKGROUNDS)}")
        object.__setattr__(self, "background", tuple(kinds))

    @torch.no_grad()
    def __call__(
        self, pixels: UInt8[Tensor, "B C H W"] | Float[Tensor, "B C H W"], keys: Sequence[str], epoch: int = 0
    ) -> Float[Tensor, "B 3 S S"]:
        if pixels.ndim != 4 or pixels.shape[1] not in (3, 4):
            raise UsageError(f"Augment takes pixels (B, 3 or 4, H, W), got {tuple(pixels.shape)}")
        if len(keys) != len(pixels):
            raise UsageError(f"Augment: {len(keys)} keys for {len(pixels)} pictures")
        if not len(pixels):
            return torch.empty((0, 3, self.size, self.size), device=pixels.device)
        # One small transfer: every random number of the batch.
        u = torch.from_numpy(uniform(self.seed, keys, epoch, _DRAWS + 3 * _CELLS * _CELLS)).to(pixels.device)
        out = torch.empty((len(pixels), 3, self.size, self.size), device=pixels.device)
        # On a CPU a part at a time, so that what is in between stays in the cache and its memory is used again.
        part = len(pixels) if pixels.device.type != "cpu" else max(1, _PART // max(pixels[0].numel(), out[0].numel()))
        for start in range(0, len(pixels), part):
            self._views(pixels[start : start + part], u[start : start + part], out[start : start + part])
        return out if self.cutout is None else self.cutout(out, keys, epoch)

    def _views(self, pixels: Tensor, u: Tensor, out: Tensor) -> None:
        images = pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.float().clone()
        if images.shape[1] == 4:
            images[:, :3].mul_(images[:, 3:])  # premultiplied: transparent pixels lend their colour to none
        images = self._resample(images, u)
        if images.shape[1] == 3:
            torch.clamp(self._jitter(images, u), 0, 1, out=out)
        else:
            self._compose(images, u, out)

    @torch.no_grad()
    def follow(
        self, labels: Tensor, keys: Sequence[str], epoch: int = 0, *, kind: LabelKind, transparent: bool = False
    ) -> Tensor:
        """Label maps moved as the call moves their pictures: the nearest label, in the same place, at `size`.

        Args:
            labels: of whole pictures and of their proportions, at any resolution, as `decode_labels` gives them:
                classes (B, H, W), depth (B, H, W), normals (B, 3, H, W). Normals turn with the picture, and a mirror
                negates their x.
            keys, epoch: of the call.
            kind: "classes", "depth" or "normals".
            transparent: whether the pictures have an alpha channel, whose crops may reach beyond them.

        Returns:
            Labels of the same kind; beyond the picture -1, NaN and zero.
        """
        if len(keys) != len(labels):
            raise UsageError(f"Augment: {len(keys)} keys for {len(labels)} label maps")
        u = torch.from_numpy(uniform(self.seed, keys, epoch, _DRAWS + 3 * _CELLS * _CELLS)).to(labels.device)
        flat = labels if kind == "normals" else labels[:, None]
        nothing = {"classes": -1.0, "depth": torch.nan, "normals": 0.0}[kind]
        aspect = flat.shape[-1] / flat.shape[-2]
        whole = self.scale == self.ratio == (1, 1) and not self.rotate and aspect == 1
        theta = self._affine(u, aspect, transparent)
        grid = _grid(theta, self.size)
        moved = F.grid_sample(flat.float(), grid, mode="nearest", padding_mode="border", align_corners=False)
        if not whole:
            beyond = (grid.abs() > 1).any(-1)[:, None]
            moved = torch.where(beyond, nothing, moved)
        if kind == "normals":
            mirror, angle = 1 - 2 * (u[:, 4] < self.flip).float(), (2 * u[:, 5] - 1) * (self.rotate * np.pi / 180)
            mirror, cos, sin = (each[:, None, None] for each in (mirror, angle.cos(), angle.sin()))
            x, y, z = moved.unbind(1)
            # the picture's own axes, seen along those of the result
            return torch.stack([mirror * (cos * x + sin * y), cos * y - sin * x, z], 1).to(labels.dtype)
        return moved[:, 0].to(labels.dtype)

    # --- geometry -----------------------------------------------------------------------------------------------------

    def _resample(self, images: Tensor, u: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        if self.scale == self.ratio == (1, 1) and not self.rotate and height == width:
            return self._resize(images, u[:, 4] < self.flip)
        # Shrinking by more than two would skip pixels: average blocks first, by a factor that all pictures share.
        factor = int(min(height, width) * self.scale[0] ** 0.5 / self.size)
        if factor > 1:
            images = F.avg_pool2d(images, factor)
        theta = self._affine(u, images.shape[-1] / images.shape[-2], images.shape[1] == 4)
        grid = _grid(theta, self.size)
        padding = "zeros" if images.shape[1] == 4 else "reflection"
        return F.grid_sample(images, grid, mode="bilinear", padding_mode=padding, align_corners=False)

    def _resize(self, images: Tensor, flip: Tensor) -> Tensor:
        if self.flip:
            images = torch.where(flip[:, None, None, None], images.flip(-1), images)
        if images.shape[-1] == self.size:
            return images
        return F.interpolate(images, size=(self.size, self.size), mode="bilinear", antialias=True)

    def _affine(self, u: Tensor, aspect: float, transparent: bool) -> Float[Tensor, "B 2 3"]:
        """The map from positions in the result to positions in the picture, both in [-1, 1]; aspect = W / H."""
        area = self.scale[0] + (self.scale[1] - self.scale[0]) * u[:, 0]
        low, high = np.log(self.ratio[0]), np.log(self.ratio[1])
        ratio = torch.exp(low + (high - low) * u[:, 1])
        w, h = (area * ratio / aspect).sqrt(), (area / ratio * aspect).sqrt()  # fractions of W and H
        if not transparent:
            w, h = w.clamp(max=1), h.clamp(max=1)
        x, y = (1 - w).abs() * (2 * u[:, 2] - 1), (1 - h).abs() * (2 * u[:, 3] - 1)
        angle = (2 * u[:, 5] - 1) * (self.rotate * np.pi / 180)
        mirror = 1 - 2 * (u[:, 4] < self.flip).float()
        cos, sin = angle.cos(), angle.sin()
        rows = [mirror * w * cos, -h * sin / aspect, x, mirror * w * sin * aspect, h * cos, y]
        return torch.stack(rows, 1).view(-1, 2, 3)

    # --- colour -------------------------------------------------------------------------------------------------------

    def _matrix(self, u: Tensor) -> tuple[Float[Tensor, "B 3 3"], Float[Tensor, "B"], Float[Tensor, "B"]]:
        """The linear part of the jitter, and the factors of brightness and contrast."""
        signed = 2 * u[:, 6:10] - 1
        bright = 1 + self.brightness * signed[:, 0]
        contrast = 1 + self.contrast * signed[:, 1]
        saturation = (1 + self.saturation * signed[:, 2]) * (u[:, 10] >= self.grey)
        turn = signed[:, 3] * (2 * np.pi * self.hue)
        one, luma = torch.ones(3, 3, device=u.device) / 3, torch.tensor(_LUMA, device=u.device).expand(3, 3)
        cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=u.device) / 3**0.5
        eye = torch.eye(3, device=u.device)
        cos, sin = turn.cos()[:, None, None], turn.sin()[:, None, None]
        hue = cos * eye + (1 - cos) * one + sin * cross  # a rotation about the grey axis
        s = saturation[:, None, None]
        return (bright * contrast)[:, None, None] * ((s * eye + (1 - s) * luma) @ hue), bright, contrast

    @property
    def _jitters(self) -> bool:
        return bool(self.brightness or self.contrast or self.saturation or self.hue or self.grey)

    def _jitter(self, images: Float[Tensor, "B C H W"], u: Tensor) -> Float[Tensor, "B 3 H W"]:
        """Jittered colours; of premultiplied RGBA the fourth channel carries what contrast adds."""
        if not self._jitters:
            return images[:, :3]
        matrix, bright, contrast = self._matrix(u)
        flat = images.flatten(2)
        means = flat.mean(2)
        luma = means[:, :3] @ torch.tensor(_LUMA, device=u.device)
        if images.shape[1] == 4:
            luma = luma / means[:, 3].clamp_min(1e-6)  # of what is visible
        shift = (bright * (1 - contrast) * luma)[:, None, None].expand(-1, 3, 1)
        if images.shape[1] == 4:
            out = torch.bmm(torch.cat([matrix, shift], 2), flat)
        else:
            out = torch.baddbmm(shift, matrix, flat)
        return out.view(len(images), 3, *images.shape[-2:])

    def _compose(self, images: Float[Tensor, "B 4 S S"], u: Tensor, out: Float[Tensor, "B 3 S S"]) -> None:
        alpha = images[:, 3:]
        black = (images[:, :3].amax((1, 2, 3)) < 1 / 255) & (alpha.amax((1, 2, 3)) > 0.5)
        colours = torch.minimum(self._jitter(images, u).clamp_(min=0), alpha)
        cells = self._cells(u)
        dark = (cells.mean((2, 3)) @ torch.tensor(_LUMA, device=u.device)) < 0.5
        painted = black & (u[:, 20] < self.paint)
        cells = torch.where((black & ~painted & dark)[:, None, None, None], 1 - cells, cells)
        rows = painted.nonzero()[:, 0]
        if len(rows):
            paint = u[rows, 21:24]
            paint = torch.where(dark[rows, None], 0.6 + 0.4 * paint, 0.4 * paint)
            colours[rows] = alpha[rows] * paint[:, :, None, None]
        spread = _spread(self.size).to(u.device)
        under = spread @ cells @ spread.T  # as F.interpolate does it, ten times faster
        torch.addcmul(colours, 1 - alpha, under, out=out).clamp_(0, 1)

    def _cells(self, u: Tensor) -> Float[Tensor, "B 3 G G"]:
        """The backgrounds as small grids of colours, which interpolation makes into pictures."""
        first, second = u[:, 11:14, None, None], u[:, 14:17, None, None]
        kind = (u[:, 17] * len(self.background)).long().clamp_(max=len(self.background) - 1)
        number = torch.tensor([BACKGROUNDS.index(name) for name in self.background], device=u.device)[kind]
        cells = first.expand(-1, 3, _CELLS, _CELLS)
        angle = 2 * np.pi * u[:, 18, None, None]
        line = torch.linspace(-0.5, 0.5, _CELLS, device=u.device)
        along = line[None, None, :] * angle.cos() + line[None, :, None] * angle.sin()
        along = (0.5 + along / (angle.cos().abs() + angle.sin().abs()))[:, None]  # 0 in one corner, 1 in the other
        noise = (first + 0.6 * (u[:, _DRAWS:].view(-1, 3, _CELLS, _CELLS) - 0.5)).clamp(0, 1)
        choice = number[:, None, None, None]
        cells = torch.where(choice == 1, first + (second - first) * along, cells)
        cells = torch.where(choice == 2, noise, cells)
        return torch.where((u[:, 19] < self.white)[:, None, None, None], torch.ones_like(cells), cells)


def _grid(theta: Float[Tensor, "B 2 3"], size: int) -> Float[Tensor, "B S S 2"]:
    """`F.affine_grid` for squares, several times faster: the map is a sum of a row and a column."""
    line = (torch.arange(size, device=theta.device) * 2 + 1) / size - 1
    along = theta[:, None, None, :, 0] * line[None, None, :, None]
    down = theta[:, None, None, :, 1] * line[None, :, None, None] + theta[:, None, None, :, 2]
    return along + down


@lru_cache
def _spread(size: int) -> Float[Tensor, "S G"]:
    """Weights that interpolate a grid's cells to `size` pixels, the outermost cells at the border."""
    eye = torch.eye(_CELLS)[None]
    return F.interpolate(eye, size=size, mode="linear", align_corners=True)[0].T.contiguous()
