"""A ControlNet for what is drawn, and the picture that it reads, at the size of the drawn ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.data import open_image, to_tensor
from binderclip.errors import UsageError
from binderclip.tasks.diffusion import size_text
from binderclip.tasks.files.inputs import one_image

if TYPE_CHECKING:
    from binderclip.generate import LatentDenoiser

BLACK = 0, 0, 0
"""What lies under transparent parts: nothing, in pictures of edges, depth and poses."""


def control_picture(path: str) -> Image.Image:
    """The picture that a ControlNet reads, RGB.

    Raises:
        UsageError: not a file. DataError: it cannot be read.
    """
    return open_image(one_image(path), background=BLACK)


def control_image(
    picture: Image.Image, size: tuple[int, int], denoiser: LatentDenoiser, name: str
) -> Float[Tensor, "3 H W"]:
    """A control image at the size of the pictures, in [0, 1], resized by Lanczos as diffusers' pipelines do.

    Those stretch a picture of any shape, which moves its edges away from where they belong; here one of another shape
    is refused, unless no size that the model draws comes nearer to it.

    Args:
        picture: RGB.
        size: (height, width) of the pictures.
        denoiser: that draws them.
        name: of the file.

    Raises:
        UsageError: a picture of another shape.
    """
    height, width = size
    if abs(height * picture.width / picture.height - width) >= denoiser.multiple:
        scale = denoiser.side / min(picture.size)
        own = [denoiser.multiple * round(scale * edge / denoiser.multiple) for edge in (picture.height, picture.width)]
        raise UsageError(
            f"--control-image {name} is {picture.width} x {picture.height} px, of another shape than the pictures "
            f"({width} x {height}): crop it, or give --size {size_text(own)}"
        )
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return to_tensor(picture)
