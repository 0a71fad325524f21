"""Views of photographs, each whole and with faults at random levels, for learning what a fault looks like anywhere."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional

from binderclip.data.distortions.kinds import compressed
from binderclip.data.distortions.library import LEVELS, distort
from binderclip.data.distortions.processing import exposed, resized_and_back
from binderclip.data.images import open_image, to_tensor
from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.quality.score.native_files import reduced_picture, reduced_size

VERSION = 2
"""Of the draws: raised when views of the same settings differ from before, so that what was kept of them is refused."""
UNSEEN = 1 / 255
"""A fault that changes less is none: too much colour in a black and white picture."""
MOST = 1280
"""Longer side, in pixels, that views are cut from."""
LARGER = 2.5
"""Times the size of a view, at most, at which it is damaged."""
STOPS, CONTRAST, SATURATION, CAST, SHARP, GRAIN = 0.5, (0.65, 1.15), (0.4, 1.3), (0.9, 1.1), (0.5, 1.0), 0.015
"""How far whole photographs differ: standard deviation of the exposure in stops, factors of contrast, of saturation and
of each colour, share of the size that detail is left at, and standard deviation of noise, of 1."""
UNTOUCHED, RARE = 1 / 3, 0.3
"""Shares of views that are not developed otherwise, and of the others that are softened, or grainy."""
Fault = Callable[[Tensor, int, int], Tensor]
"""(picture (1, 3, h, w), level from 1, seed) -> the damaged picture."""


def _distorted(kind: str) -> Fault:
    return lambda picture, level, seed: distort(picture, kind, level, seed)


def _exposed(stops: Sequence[float], picture: Tensor, level: int, seed: int) -> Tensor:
    return exposed(picture, stops[level - 1])


def _grey_noise(picture: Tensor, level: int, seed: int) -> Tensor:
    """The same noise in all channels, as of a black and white film."""
    sigma = (0.03, 0.06, 0.1, 0.16, 0.25)[level - 1]
    return picture + sigma * torch.randn(picture[:, :1].shape, generator=torch.Generator().manual_seed(seed))


def _specks(picture: Tensor, level: int, seed: int) -> Tensor:
    """Single pixels that are black or white in all channels."""
    probability = (0.005, 0.015, 0.04, 0.08, 0.15)[level - 1]
    draws = torch.rand(picture[:, :1].shape, generator=torch.Generator().manual_seed(seed))
    return picture.where(draws >= probability / 2, 0.0).where(draws <= 1 - probability / 2, 1.0)


def _enlarged(shares: Sequence[float], picture: Tensor, level: int, seed: int) -> Tensor:
    return resized_and_back(picture, shares[level - 1])


FAULTS: dict[str, dict[str, Fault]] = {
    "noise": {
        kind: _distorted(kind)
        for kind in ("gaussian_noise", "colour_noise", "shot_noise", "speckle_noise", "impulse_noise")
    }
    | {"grey noise": _grey_noise, "specks": _specks},
    "blur": {
        kind: _distorted(kind) for kind in ("gaussian_blur", "defocus_blur", "motion_blur", "zoom_blur", "glass_blur")
    },
    "compression": {kind: _distorted(kind) for kind in ("jpeg", "wavelet", "posterize")},
    "resolution": {"enlarged": partial(_enlarged, (0.5, 0.33, 0.22, 0.15, 0.1)), "pixelate": _distorted("pixelate")},
    "exposure": {
        "too dark": partial(_exposed, (-1.0, -2.0, -3.0, -4.0, -5.0)),
        "too bright": partial(_exposed, (0.8, 1.4, 2.0, 2.8, 3.6)),
        "darken": _distorted("darken"),
        "brighten": _distorted("brighten"),
    },
    "contrast": {kind: _distorted(kind) for kind in ("contrast", "fog")},
    "colour": {kind: _distorted(kind) for kind in ("saturate", "colour_shift")},
}
"""Faults by family, more than `data.distort` has. Black and white, a style, and snow, weather, are none; bent and
scrambled pictures no camera makes, and what looks like them, rich detail, would be called a fault."""


FAMILIES = tuple(FAULTS)


def _developed(picture: Float[Tensor, "1 3 h w"], rng: np.random.Generator) -> Float[Tensor, "1 3 h w"]:
    """A picture a little darker or brighter, flatter, duller, softer, grainier: as whole photographs differ."""
    veil, stops = float(rng.uniform(0.2, 0.9)), min(2 * STOPS, max(-2 * STOPS, rng.normal(0, STOPS)))
    contrast, saturation, sharpness = (float(rng.uniform(*limits)) for limits in (CONTRAST, SATURATION, SHARP))
    picture = contrast * exposed(picture, stops) + (1 - contrast) * veil
    grey = picture.mean(1, keepdim=True)
    cast = torch.tensor(rng.uniform(*CAST, 3)).to(picture).view(1, 3, 1, 1)
    picture = cast * (grey + saturation * (picture - grey))
    soft, seed, grain = rng.random() < RARE, int(rng.integers(2**31)), float(rng.uniform(0, GRAIN))
    if soft:
        picture = resized_and_back(picture.clamp(0, 1), sharpness)
    if rng.random() < RARE:
        picture = picture + grain * torch.randn(picture.shape, generator=torch.Generator().manual_seed(seed))
    return picture.clamp(0, 1)


def _resized(picture: Float[Tensor, "1 3 H W"], size: tuple[int, int]) -> Float[Tensor, "1 3 h w"]:
    """A picture at a smaller size, bicubic, in 8 bits as files are."""
    if tuple(picture.shape[2:]) != size:
        picture = functional.interpolate(picture, size, mode="bicubic", antialias=True).clamp(0, 1)
    return (picture * 255).round() / 255


class DamagedViews(Sequence[tuple[Tensor, Tensor]]):
    """View n of N: pictures (1 + F, 3, h, w), the first whole, and the levels (1 + F, K) of the K `FAMILIES`, 0 to 5.

    A view is a random part of a photograph, from three tenths of its sides to all of it, so that some show a plain
    wall or the sky alone; one in eight is in black and white. Two in three are made a little darker or brighter,
    flatter or richer, duller, softer, grainier or toned, as whole photographs differ. It is reduced to a random
    size, and half of the views are saved as a JPEG of quality 60 to 99 afterwards, as photographs are: what that
    leaves is no fault. Half are damaged at up to 2.5 times their size and reduced with their faults, as large
    photographs are before a look. The F faults are of different families. One that changes nothing has level 0.
    Draws depend on the seed and n alone.

    Args:
        images: paths, PIL images, arrays or tensors, free of faults.
        count: N; view n is of image n modulo their number.
        faults: F, at most the number of families.
        sides: (least, largest) longer side in pixels.
        seed: of all draws.

    Raises:
        UsageError: no image, or a number out of range.
    """

    def __init__(
        self,
        images: Sequence[ImageLike],
        count: int,
        *,
        faults: int = 3,
        sides: tuple[int, int] = (160, 640),
        seed: int = 0,
    ) -> None:
        if not len(images):
            raise UsageError("images is empty: give at least one picture without faults")
        if count < 1 or not 1 <= faults <= len(FAULTS) or not 32 <= sides[0] <= sides[1]:
            raise UsageError(
                f"count {count} must be at least 1, faults {faults} from 1 to {len(FAULTS)}, and sides {sides} "
                "(least, largest) from 32"
            )
        self.images, self.number, self.faults, self.sides, self.seed = images, count, faults, sides, seed
        self._opened = lru_cache(maxsize=256)(self._open)

    def settings(self) -> dict[str, int | str | list[int]]:
        """What a view is made from, besides its number; of files their names and sizes stand for what is in them."""
        digest = hashlib.blake2b(digest_size=8)
        for image in self.images:
            if isinstance(image, (str, os.PathLike)):
                digest.update(f"{Path(image).name} {Path(image).stat().st_size}".encode())
            else:
                digest.update(np.asarray(open_image(image, mode="RGB")).tobytes())
        return {
            "version": VERSION, "images": len(self.images), "digest": digest.hexdigest(), "faults": self.faults,
            "sides": list(self.sides), "seed": self.seed,
        }  # fmt: skip

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "L 3 h w"], Float[Tensor, "L K"]]:  # type: ignore[override]
        if not 0 <= index < self.number:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index])
        side = int(rng.integers(self.sides[0], self.sides[1] + 1))
        larger = float(rng.uniform(1, LARGER)) if rng.random() < 0.5 else 1.0
        large = self._view(self._opened(index % len(self.images)), round(larger * side), rng)
        if rng.random() >= UNTOUCHED:
            large = _developed(large, rng)
        quality = int(rng.integers(60, 100)) if rng.random() < 0.5 else None
        size = reduced_size(large.shape[2], large.shape[3], side)
        whole = _resized(large, size)
        pictures, levels = [whole], torch.zeros(1 + self.faults, len(FAMILIES))
        for row, family in enumerate(rng.choice(len(FAMILIES), self.faults, replace=False).tolist(), 1):
            kinds = FAULTS[FAMILIES[family]]
            name = list(kinds)[rng.integers(len(kinds))]
            level, seed = int(rng.integers(1, LEVELS + 1)), int(rng.integers(2**31))
            damaged = _resized(kinds[name](large, level, seed).clamp(0, 1), size)
            pictures.append(damaged)
            if float((damaged - whole).abs().max()) > UNSEEN:
                levels[row, family] = level
        views = torch.cat(pictures)
        return (views if quality is None else compressed(views, quality)), levels

    def _open(self, row: int) -> Image.Image:
        return reduced_picture(open_image(self.images[row], mode="RGB"), MOST)

    def _view(self, picture: Image.Image, side: int, rng: np.random.Generator) -> Float[Tensor, "1 3 h w"]:
        short = min(picture.size)
        ratio = rng.uniform(min(1.0, max(0.3, 32 / short)), 1)  # no view of a few pixels
        width, height = (max(1, int(ratio * min(extent, 2 * short))) for extent in picture.size)
        x, y = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
        part = picture.crop((x, y, x + width, y + height))
        part.thumbnail((side, side), Image.Resampling.LANCZOS)
        view = to_tensor(part)[None]
        return view.mean(1, keepdim=True).expand_as(view).contiguous() if rng.random() < 0.125 else view
