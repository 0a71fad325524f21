"""Plain shapes that are painted with the texture of their ground, and what finds them without a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy import ndimage
from skimage.filters import threshold_otsu
from torch import Tensor

from binderclip.data.synthetic_scenes.background import painter
from binderclip.train.bundled.data.drawings import SHAPES, shape_pictures

__all__ = ["HiddenShapes", "contrasting_regions", "hidden_shapes"]

SIDE = 64
GROUNDS = ("noise", "texture")
UNSEEN = 1_000_000
"""From here on seeds of `shape_pictures` are none that the bundled denoiser was trained with."""
LEAST = 30
"""Pixels below which a region is no object; the smallest shape has about 60."""


@dataclass(frozen=True)
class HiddenShapes:
    """Pictures of one or two shapes.

    Attributes:
        images: in [0, 1].
        masks: of each picture's shapes, from left to right.
        labels: of each an index into the names that were asked for.
    """

    images: Float[Tensor, "N 3 64 64"]
    masks: list[Bool[Tensor, "_ 64 64"]]
    labels: list[Int[Tensor, "_"]]


def hidden_shapes(
    count: int, seed: int, *, contrast: float, shapes: Sequence[str] = SHAPES, pairs: float = 0.4
) -> HiddenShapes:
    """Shapes that differ from their ground by a quarter turn of its texture and by a shift of its colour.

    Args:
        count: how many pictures.
        seed: of everything.
        contrast: Euclidean length of the shift, of channels in [0, 1]; 0 leaves the turned texture.
        shapes: those that occur.
        pairs: share of pictures with two shapes, before those with other shapes are left out.
    """
    rng = np.random.default_rng([seed, 131])
    drawn = [
        (picture.alpha, words)
        for picture in shape_pictures(6 * count, UNSEEN + seed, pairs=pairs)
        if set(words := picture.caption.split()[2::4]) <= set(shapes)  # "a red circle and a blue square"
    ]
    images, masks, labels = [], [], []
    for alpha, words in drawn[:count]:
        ground = painter(GROUNDS[rng.integers(len(GROUNDS))])(rng, SIDE)
        direction = rng.standard_normal(3)
        painted = np.rot90(ground) + contrast * direction / np.linalg.norm(direction)
        share = alpha[..., None] / 255
        images.append(torch.from_numpy((ground + share * (painted - ground)).clip(0, 1)).permute(2, 0, 1).float())
        inside = torch.from_numpy(alpha > 127)
        halves = [inside.clone() for _ in words]  # two shapes lie in a half each
        if len(words) == 2:
            halves[0][:, SIDE // 2 :] = False
            halves[1][:, : SIDE // 2] = False
        masks.append(torch.stack(halves))
        labels.append(torch.tensor([list(shapes).index(word) for word in words]))
    return HiddenShapes(torch.stack(images), masks, labels)


def contrasting_regions(
    image: Float[Tensor, "3 H W"], sigma: float = 2.0
) -> tuple[Bool[Tensor, "S H W"], Float[Tensor, " S"]]:
    """Connected regions whose smoothed colour differs from the picture's median by more than Otsu's threshold.

    Args:
        image: in [0, 1].
        sigma: of the smoothing, in pixels.

    Returns:
        Masks and their mean difference, the score.
    """
    smooth = ndimage.gaussian_filter(image.double().numpy(), (0, sigma, sigma))
    difference = np.linalg.norm(smooth - np.median(smooth, axis=(1, 2), keepdims=True), axis=0)
    regions, number = ndimage.label(difference > threshold_otsu(difference))
    found = [regions == region for region in range(1, number + 1)]
    found = [region for region in found if region.sum() >= LEAST]
    scores = [float(difference[region].mean()) for region in found]
    masks = torch.from_numpy(np.array(found)) if found else torch.zeros(0, *image.shape[1:], dtype=torch.bool)
    return masks, torch.tensor(scores)
