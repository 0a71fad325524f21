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

from binderclip.data.distort.distortions import LEVELS, distort
from binderclip.data.distort.kinds import compressed
from binderclip.data.distort.processing import exposed, resized_and_back
from binderclip.data.images import open_image, to_tensor
from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.quality.score.native_files import reduced

UNSEEN = 1 / 255
"""A fault that changes less is none: too much colour in a black and white picture."""
MOST = 1280
"""Longer side, in pixels, that views are cut from."""
Fault = Callable[[Tensor, int, int], Tensor]
"""(picture (1, 3, h, w), level from 1, seed) -> the damaged picture."""


def _distorted(kind: str) -> Fault:
    return lambda picture, level, seed: distort(picture, kind, level, seed)


def _exposed(stops: Sequence[float], picture: Tensor, level: int, seed: int) -> Tensor:
    return exposed(picture, stops[level - 1])


def _enlarged(shares: Sequence[float], picture: Tensor, level: int, seed: int) -> Tensor:
    return resized_and_back(picture, shares[level - 1])


FAULTS: dict[str, dict[str, Fault]] = {
    "noise": {
        kind: _distorted(kind)
        for kind in ("gaussian_noise", "colour_noise", "shot_noise", "speckle_noise", "impulse_noise")
    },
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
    "geometry": {kind: _distorted(kind) for kind in ("elastic", "scramble")},
}
"""Faults by family, more than `data.distort` has; black and white, a style, and snow, weather, are none."""


class DamagedViews(Sequence[tuple[Tensor, Tensor]]):
    """View n of N: pictures (1 + F, 3, h, w), the first whole, and their levels (1 + F,) from 0 to 5.

    A view is a random part of a photograph, from three tenths of its sides to all of it, so that some show a plain wall
    or the sky alone; one in eight is in black and white. It is reduced to a random size, and half of the views are
    saved as a JPEG of quality 60 to 99 afterwards, as photographs are: what that leaves is no fault. The F faults are
    of different families. One that changes nothing has level 0. Draws depend on the seed and n alone.

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
        sides: tuple[int, int] = (160, 416),
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
        self._opened = lru_cache(maxsize=128)(self._open)

    def settings(self) -> dict[str, int | str | list[int]]:
        """What a view is made from, besides its number; of files their names and sizes stand for what is in them."""
        digest = hashlib.blake2b(digest_size=8)
        for image in self.images:
            if isinstance(image, (str, os.PathLike)):
                digest.update(f"{Path(image).name} {Path(image).stat().st_size}".encode())
            else:
                digest.update(np.asarray(open_image(image, mode="RGB")).tobytes())
        return {
            "images": len(self.images), "digest": digest.hexdigest(), "faults": self.faults,
            "sides": list(self.sides), "seed": self.seed,
        }  # fmt: skip

    def __len__(self) -> int:
        return self.number

    def __getitem__(self, index: int) -> tuple[Float[Tensor, "L 3 h w"], Float[Tensor, "L"]]:  # type: ignore[override]
        if not 0 <= index < self.number:
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, index])
        whole = self._view(self._opened(index % len(self.images)), rng)
        quality = int(rng.integers(60, 100)) if rng.random() < 0.5 else None
        pictures, levels = [whole], [0]
        for family in rng.choice(list(FAULTS), self.faults, replace=False):
            name = list(FAULTS[family])[rng.integers(len(FAULTS[family]))]
            level, seed = int(rng.integers(1, LEVELS + 1)), int(rng.integers(2**31))
            damaged = FAULTS[family][name](whole, level, seed).clamp(0, 1)
            pictures.append(damaged)
            levels.append(level if float((damaged - whole).abs().max()) > UNSEEN else 0)
        found = torch.cat(pictures)
        return (found if quality is None else compressed(found, quality)), torch.tensor(levels).float()

    def _open(self, row: int) -> Image.Image:
        return reduced(open_image(self.images[row], mode="RGB"), MOST)

    def _view(self, picture: Image.Image, rng: np.random.Generator) -> Float[Tensor, "1 3 h w"]:
        short = min(picture.size)
        share = rng.uniform(min(1.0, max(0.3, 32 / short)), 1)  # no view of a few pixels
        width, height = (max(1, int(share * min(side, 2 * short))) for side in picture.size)
        x, y = int(rng.integers(picture.width - width + 1)), int(rng.integers(picture.height - height + 1))
        part = picture.crop((x, y, x + width, y + height))
        side = int(rng.integers(self.sides[0], self.sides[1] + 1))
        part.thumbnail((side, side), Image.Resampling.LANCZOS)
        view = to_tensor(part)[None]
        return view.mean(1, keepdim=True).expand_as(view).contiguous() if rng.random() < 0.125 else view
