"""Plain shapes and the bundled denoiser: pictures of which every pixel is known, and rules that name what is drawn.

What is named is named by colours and overlap with drawn shapes, so by nothing that a denoiser was guided by.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.generate import LatentDenoiser, load_denoiser
from binderclip.studies.harness import Row
from binderclip.train.bundled.data.drawings import shape_pictures
from binderclip.train.bundled.figures.diffusion_figures import drawn_pictures, name_shape, shape_mask

__all__ = [
    "DRAWN", "PlainShapes", "bundled_denoiser", "drawn_rightly", "named", "plain_shapes",
    "shape_overlap",
]  # fmt: skip

DRAWN = "pictures of a text whose shape and colour rules name as the text does"
DRAWN_STEPS = 15


@lru_cache(maxsize=1)
def bundled_denoiser() -> LatentDenoiser:
    """`small-diffusion`, read once."""
    return load_denoiser("small-diffusion")


@dataclass(frozen=True)
class PlainShapes:
    """Pictures of one or two plain shapes.

    Attributes:
        images: in [0, 1].
        masks: where a shape is.
        grounds: colour of the ground.
        captions: such as "a red circle" or "a red circle and a blue square", from left to right.
    """

    images: Float[Tensor, "N 3 64 64"]
    masks: Bool[Tensor, "N 1 64 64"]
    grounds: Float[Tensor, "N 3 1 1"]
    captions: list[str]


def plain_shapes(count: int, seed: int, *, pairs: float = 0.0) -> PlainShapes:
    """Shapes that the denoiser has not seen in these places, sizes and grounds.

    Args:
        count: how many pictures.
        seed: of everything; the training had others.
        pairs: share of pictures with two shapes.
    """
    pictures = shape_pictures(count, 1_000_000 + seed, pairs=pairs)
    images = torch.from_numpy(np.stack([picture.pixels for picture in pictures])).permute(0, 3, 1, 2).float() / 255
    alpha = torch.from_numpy(np.stack([picture.alpha for picture in pictures]))[:, None]
    grounds = images[:, :, 0, 0][..., None, None]  # shapes never touch the border
    return PlainShapes(images, alpha > 127, grounds, [picture.caption for picture in pictures])


def drawn_rightly(seed: int, count: int = 10) -> Row:
    """The row of a precondition: of how many texts the bundled denoiser draws shape and colour rightly.

    Args:
        seed: of texts and noise. count: of texts.
    """
    captions = plain_shapes(count, seed).captions
    drawn = drawn_pictures(bundled_denoiser(), captions, steps=DRAWN_STEPS, seed=seed)
    return Row(DRAWN, "guided by the text", float(np.mean(named(drawn, captions))))


def named(images: Float[Tensor, "N 3 H W"], captions: Sequence[str]) -> list[bool]:
    """Whether rules name shape and colour of each picture as its caption does."""
    right = []
    for image, caption in zip(images, captions, strict=True):
        shape, colour = name_shape(image)
        right.append(f"a {colour} {shape}" == caption)
    return right


def shape_overlap(images: Float[Tensor, "N 3 H W"], masks: Bool[Tensor, "N 1 H W"]) -> Float[Tensor, " N"]:
    """IoU of what differs from the ground with a mask."""
    seen = torch.stack([shape_mask(image) for image in images])
    true = masks[:, 0]
    return (seen & true).sum((1, 2)) / (seen | true).sum((1, 2)).clamp(min=1)
