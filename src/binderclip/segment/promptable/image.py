"""One picture in, whatever it is."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from binderclip.data.images import open_image
from binderclip.errors import UsageError
from binderclip.models.image_text.preprocess import ImageLike, float_batch

__all__ = ["as_picture"]


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
