"""One picture in, whatever it is, and maps of it in the frame of a segmenter's mask prompts."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from binderclip.data.images import open_image
from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike, float_batch
from binderclip.segment.promptable.prompts import ImageState

__all__ = ["as_picture", "check_mask", "framed", "mask_prompt"]

MASK_SIDE = 256
"""Long side at which maps are made into mask prompts."""
SURE = 10.0
"""Logit of a pixel that a given mask holds."""


def as_picture(image: ImageLike) -> tuple[Tensor | Image.Image, tuple[int, int]]:
    """A float tensor (1, 3, H, W) in [0, 1] as it is, anything else opened as RGB; and its (H, W).

    Raises:
        UsageError: several pictures, or a float tensor of a wrong shape or range.
        DataError: a picture that cannot be read.
    """
    batch = float_batch(image)
    if batch is not None:
        if len(batch) != 1:
            raise UsageError(f"encode takes one picture, got a batch of {len(batch)}")
        return batch, (int(batch.shape[-2]), int(batch.shape[-1]))
    picture = open_image(image)
    return picture, (picture.height, picture.width)


def framed(maps: Float[Tensor, "h w"], state: ImageState, side: int) -> Float[Tensor, "1 S S"]:
    """A map of a picture in the frame of a segmenter's mask prompts: resized as the picture was, padded by 0.

    Args:
        maps: over the whole picture.
        state: of the encoded picture.
        side: of the encoder's square input, in pixels.
    """
    ratio = MASK_SIDE / side
    height, width = (
        min(MASK_SIDE, max(1, round(length * scale * ratio)))
        for length, scale in zip(state.size, reversed(state.scale), strict=True)
    )
    drawn = F.interpolate(maps[None, None], size=(height, width), mode="bilinear", align_corners=False)[0]
    return F.pad(drawn, (0, MASK_SIDE - width, 0, MASK_SIDE - height))


def mask_prompt(mask: Bool[Tensor, "H W"], state: ImageState, side: int) -> Float[Tensor, "S S"]:
    """A mask as the logits of an earlier prediction, +10 inside and -10 outside, for `Prompts.masks`.

    Args:
        mask: at the picture's size.
        state: of the encoded picture.
        side: of the encoder's square input, in pixels.
    """
    return framed(SURE * (2 * mask.float() - 1), state, side)[0]


def check_mask(mask: Bool[Tensor, "H W"], size: tuple[int, int], name: str = "mask") -> None:
    """Refuse a mask that no picture of this size can have.

    Raises:
        UsageError: another shape, or no pixel.
    """
    if tuple(mask.shape) != tuple(size):
        raise UsageError(f"{name} is {tuple(mask.shape)}, the picture is {tuple(size)} (height, width)")
    if not bool(mask.any()):
        raise UsageError(f"{name} holds no pixel")
