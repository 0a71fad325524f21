"""What a detector looks at: a square of the picture at its own resolution, or the whole picture made smaller."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from binderclip.models.image_text.preprocess import Preprocess
from binderclip.settings import check_choice

View = Literal["crop", "resize"]
Places = Sequence[tuple[float, float]]


def native_crop(
    image: Float[Tensor, "3 H W"], side: int, place: tuple[float, float] = (0.5, 0.5)
) -> Float[Tensor, "3 s s"]:
    """A square of the picture at its own resolution; a smaller picture is mirrored at its edges first.

    Args:
        image: any size.
        side: s in pixels.
        place: (down, along) of the square between the edges, 0 to 1; default the middle.
    """
    height, width = image.shape[-2:]
    while min(height, width) < side:  # a mirror can add less than the picture's own side at a time
        add = [min(max(side - extent, 0), extent - 1) for extent in (height, width)]
        if height == 1 or width == 1:
            image = functional.pad(image[None], (0, max(side - width, 0), 0, max(side - height, 0)), "replicate")[0]
        else:
            image = functional.pad(image[None], (0, add[1], 0, add[0]), mode="reflect")[0]
        height, width = image.shape[-2:]
    top, left = (min(int(part * (extent - side + 1)), extent - side)
                 for part, extent in zip(place, (height, width), strict=True))  # fmt: skip
    return image[:, top : top + side, left : left + side]


def seen(
    images: Float[Tensor, "B 3 H W"], view: View, side: int, preprocess: Preprocess, places: Places | None = None
) -> Float[Tensor, "B 3 s s"]:
    """The input of an image tower, normalised.

    Args:
        images: in [0, 1].
        view: "crop" keeps the resolution, whose traces resizing would smooth away; "resize" shows the whole picture.
        side: s in pixels.
        preprocess: of the model.
        places: of the crops, one a picture; None for the middle.

    Raises:
        UsageError: an unknown view.
    """
    check_choice("view", view, ("crop", "resize"))
    if view == "resize":
        return preprocess.normalize(preprocess.at(side).fit(images))
    where = [(0.5, 0.5)] * len(images) if places is None else places
    parts = [native_crop(image, side, place) for image, place in zip(images, where, strict=True)]
    return preprocess.normalize(torch.stack(parts))
