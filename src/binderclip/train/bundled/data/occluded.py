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
from binderclip.data.augment.fill import gaussian_blur
from binderclip.data.images import to_tensor
from binderclip.train.bundled.data.photographs import PHOTOGRAPHS, photographs_in

__all__ = ["DRAWINGS", "PhotographCrops", "fenced", "reflected"]

SIDES, DRAWINGS, DRAWN = (1600, 800), 400, 0.2
"""Longer sides that photographs are read at; drawings among them; the share of crops that are drawings."""
COVERED = 0.1
"""Share of a pixel that a strand covers to count."""
PITCH, BLUR = (8.0, 24.0), 0.6
"""Bounds of the distance of strands, and the standard deviation of the strongest blur, in pixels at a scale of 1."""


class PhotographCrops:
    """Random squares of photographs and drawings, twice as large as they are learned at.

    Args:
        folders: of photographs.

    Raises:
        UsageError: a folder that is not there, or folders without pictures.
    """

    def __init__(self, folders: Sequence[str] = PHOTOGRAPHS) -> None:
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

    Fences are seen from aside, lit unevenly, half of them are grey, and half lie out of focus.

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
        pictures, patterns, pitch=(PITCH[0] * double, PITCH[1] * double), width=(1.3 * double, 2.8 * double),
        sag=(0.5 * double, 2 * double), generator=g,
    )  # fmt: skip
    strands = torch.cat([made.image * made.mask, made.mask], 1)  # colours times coverage, and coverage, (B, 4, s, s)
    strands = _seen_from_aside(strands, g)
    colour = strands[:, :3]
    grey = torch.rand(len(pictures), 1, 1, 1, generator=g) < 0.5
    colour = torch.where(grey, colour.mean(1, keepdim=True), colour)
    light = torch.rand(len(pictures), 1, 4, 4, generator=g) + 0.5
    light = F.interpolate(light, strands.shape[-2:], mode="bilinear", align_corners=True)
    colour, covered = colour * light, strands[:, 3:]
    strands = torch.cat([torch.minimum(colour, covered), covered], 1)  # no colour is above 1
    focus = torch.rand(len(pictures), generator=g)  # below a half it is sharp
    blurred = gaussian_blur(strands, BLUR * double)
    strands = torch.lerp(strands, blurred, (2 * focus - 1).clamp(min=0)[:, None, None, None])
    free = (torch.rand(len(pictures), 1, 1, 1, generator=g) < empty).float()
    seen = strands[:, :3] + pictures * (1 - strands[:, 3:])
    clean, image, covered = (F.avg_pool2d(x, 2) for x in (pictures, seen, strands[:, 3:]))
    mask = (covered > COVERED).float() * (1 - free)
    return {"image": torch.lerp(image, clean, free).clamp(0, 1), "mask": mask, "clean": clean}


def _seen_from_aside(strands: Float[Tensor, "B 4 s s"], generator: torch.Generator) -> Float[Tensor, "B 4 s s"]:
    """Strands under a random shear, squeeze and foreshortening; what comes from outside is mirrored."""
    count = len(strands)
    draws = 2 * torch.rand(count, 4, generator=generator) - 1
    shear, squeeze, near_x, near_y = (draws * torch.tensor([0.3, 0.3, 0.25, 0.25])).T[:, :, None, None]
    height, width = strands.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    depth = 1 + near_x * x + near_y * y  # at least 0.5, (B, s, s)
    grid = torch.stack([(x * (1 + squeeze) + shear * y) / depth, y.expand_as(depth) / depth], -1)
    return F.grid_sample(strands, grid.to(strands), mode="bilinear", padding_mode="reflection", align_corners=True)


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
