"""What the networks of `binderclip clean` learn from: squares of photographs and drawings, behind fences and panes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import load_data, open_image, synthesize_fence, synthesize_reflection
from binderclip.data.images import to_tensor
from binderclip.train.bundled.data.photographs import WALLPAPERS, photographs_in

__all__ = ["DRAWINGS", "PhotographCrops", "fenced", "reflected"]

SIDES, DRAWINGS, DRAWN = (1600, 800), 400, 0.2
"""Longer sides that photographs are read at; drawings among them; the share of crops that are drawings."""
COVERED = 0.1
"""Share of a pixel that a strand covers to count."""


class PhotographCrops:
    """Random squares of photographs and drawings, twice as large as they are learned at.

    Args:
        folders: of photographs.

    Raises:
        UsageError: a folder that is not there, or folders without pictures.
    """

    def __init__(self, folders: Sequence[str] = WALLPAPERS) -> None:
        self.paths = photographs_in(folders)
        self.photographs = [pixels for path in self.paths for pixels in _pixels(path)]
        pack = load_data("openclipart", split="train")
        rows = np.random.default_rng(0).permutation(len(pack))[:DRAWINGS]
        drawn = [to_tensor(pack[int(row)].image.convert("RGB")) for row in rows]
        self.drawings = torch.stack(drawn)  # (N, 3, 64, 64)

    def __call__(self, count: int, side: int, rng: np.random.Generator) -> Float[Tensor, "B 3 s s"]:
        """Squares in [0, 1], mirrored and turned at random.

        Args:
            count: B.
            side: s, in pixels.
            rng: of all draws.
        """
        squares = []
        for _ in range(count):
            if rng.random() < DRAWN:
                drawing = self.drawings[int(rng.integers(len(self.drawings)))]
                square = F.interpolate(drawing[None], (side, side), mode="bilinear", antialias=True)[0].clamp(0, 1)
            else:
                picture = self.photographs[int(rng.integers(len(self.photographs)))]
                top, left = (int(rng.integers(0, extent - side + 1)) for extent in picture.shape[1:])
                square = picture[:, top : top + side, left : left + side].float() / 255
            square = square.rot90(int(rng.integers(4)), (1, 2))
            squares.append(square.flip(2) if rng.random() < 0.5 else square)
        return torch.stack(squares)


def _pixels(path: Path) -> list[Tensor]:
    """A photograph at each of `SIDES`, as bytes, (3, H, W)."""
    picture, sizes = open_image(path, mode="RGB", size_hint=SIDES[0]), []
    for side in SIDES:
        picture.thumbnail((side, side), Image.Resampling.LANCZOS)
        sizes.append(torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous())
    return sizes


def fenced(
    pictures: Float[Tensor, "B 3 s s"], patterns: Sequence[str], *, scale: float, empty: float, seed: int
) -> dict[str, Tensor]:
    """Pictures behind fences at half their size, whose strands have soft edges; and masks of all that they touch.

    Args:
        pictures: twice as large as the result.
        patterns: kinds of fences.
        scale: factor on pitch and width.
        empty: share of pictures without a fence.
        seed: of all draws.

    Returns:
        `image`, `mask` and `clean`, (B, _, s / 2, s / 2).
    """
    g = torch.Generator().manual_seed(seed)
    double = 2 * scale
    made = synthesize_fence(
        pictures, patterns, pitch=(6 * double, 14 * double), width=(1.3 * double, 2.8 * double),
        sag=(0.5 * double, 2 * double), generator=g,
    )  # fmt: skip
    free = (torch.rand(len(pictures), 1, 1, 1, generator=g) < empty).float()
    clean, image, covered = (F.avg_pool2d(x, 2) for x in (pictures, made.image, made.mask))
    mask = (covered > COVERED).float() * (1 - free)
    return {"image": torch.lerp(image, clean, free), "mask": mask, "clean": clean}


def reflected(
    behind: Float[Tensor, "B 3 s s"], mirrored: Float[Tensor, "B 3 s s"], *, empty: float, seed: int
) -> dict[str, Tensor]:
    """Pictures through glass, with both layers.

    Args:
        behind, mirrored: of equal size.
        empty: share of pictures without glass.
        seed: of all draws.

    Returns:
        `image`, `clean` and `reflection`.
    """
    g = torch.Generator().manual_seed(seed)
    made = synthesize_reflection(behind, mirrored, generator=g)
    free = torch.rand(len(behind), 1, 1, 1, generator=g) < empty
    return {
        "image": torch.where(free, behind, made.image),
        "clean": torch.where(free, behind, made.transmission),
        "reflection": torch.where(free, 0, made.reflection),
    }
