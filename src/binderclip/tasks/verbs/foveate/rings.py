"""What a foveated picture keeps, ring by ring around the fixation; and the map of its pooling regions."""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.data.augment.fill import gaussian_blur
from binderclip.tasks.report.sheet import with_scale
from binderclip.vision import PoolingRegions, ssim_map

RINGS = (0.0, 2.0, 5.0, 10.0, 20.0, 40.0, math.inf)
"""Bounds of the rings in degrees."""
FINE = 1.0
"""Detail is what a blur of so many pixels takes away."""
LONGEST = 640
"""Side of a map, in pixels; regions are as good in a small one."""
NOTHING = 1e-12


class RingKept(NamedTuple):
    """What is kept at a distance from the fixation.

    Attributes:
        low, high: of the ring, in degrees; infinity for all beyond.
        similarity: mean structural similarity to the picture.
        detail: energy of what a blur of one pixel takes away, by that of the picture; 1 where it has none.
    """

    low: float
    high: float
    similarity: float
    detail: float

    @property
    def words(self) -> str:
        """Between which degrees."""
        return f"{self.low:g} to {self.high:g}" if math.isfinite(self.high) else f"beyond {self.low:g}"


def eccentricity(size: tuple[int, int], fixation: tuple[float, float], field_deg: float) -> Float[Tensor, "H W"]:
    """Degrees between every pixel's middle and the fixation, which is a fraction of width and height."""
    degrees = field_deg / max(size)
    y = (torch.arange(size[0]) + 0.5 - fixation[1] * size[0]) * degrees
    x = (torch.arange(size[1]) + 0.5 - fixation[0] * size[1]) * degrees
    return torch.hypot(y[:, None], x)


def kept_rings(
    image: Float[Tensor, "1 3 H W"], made: Float[Tensor, "1 3 H W"], degrees: Float[Tensor, "H W"]
) -> list[RingKept]:
    """Similarity and detail of a result in each ring that the picture shows."""
    similarity = ssim_map(made, image)[0]
    before, after = ((x - gaussian_blur(x, FINE))[0].square().sum(0) for x in (image, made))
    rings = []
    for low, high in itertools.pairwise(RINGS):
        ring = (degrees >= low) & (degrees < high)
        if bool(ring.any()):
            had = float(before[ring].mean())
            detail = float(after[ring].mean()) / had if had > NOTHING else 1.0
            rings.append(RingKept(low, high, float(similarity[ring].mean()), detail))
    return rings


def region_map(
    image: Image.Image, scale: float, *, fixation: tuple[float, float], field_deg: float, fovea_deg: float
) -> Image.Image:
    """The picture in grey, tinted by the radius of each pixel's pooling region, with lines between regions."""
    from matplotlib import colormaps

    ratio = min(1.0, LONGEST / max(image.size))
    size = (max(1, round(image.height * ratio)), max(1, round(image.width * ratio)))
    regions = PoolingRegions(
        size, scale, fixation=fixation, field_deg=field_deg, fovea_deg=fovea_deg, windows="hard"
    )  # fmt: skip
    numbers = torch.arange(len(regions), dtype=torch.float64)
    values = torch.stack([numbers, regions.radius_deg.double()], 1)[None]  # [1 R 2]
    owner, radius = regions.spread(values)[0].numpy()
    most = max(float(radius.max()), NOTHING)
    heat = colormaps["viridis"](radius / most)[..., :3]
    grey = np.asarray(image.convert("L").resize((size[1], size[0]), Image.Resampling.LANCZOS))[..., None] / 255
    shown = 0.55 * heat + 0.45 * grey
    edge = np.zeros(size, dtype=bool)
    edge[1:] |= owner[1:] != owner[:-1]
    edge[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    shown[edge] = 0.35 * shown[edge]
    picture = Image.fromarray((255 * shown).round().astype(np.uint8))
    if min(picture.size) < 64:
        return picture  # no room for words
    ramp = (255 * colormaps["viridis"](np.linspace(0, 1, 256))[None, :, :3]).round().astype(np.uint8)
    return with_scale(
        picture, "radius of the region", Image.fromarray(ramp), ("0\N{DEGREE SIGN}", f"{most:.2g}\N{DEGREE SIGN}")
    )
