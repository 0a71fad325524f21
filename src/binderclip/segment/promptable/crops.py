"""Crops of a picture in layers, as segment_anything's generator of masks makes them."""

from __future__ import annotations

import math
from itertools import product
from typing import TypeVar

from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, tensor

__all__ = ["Box", "crop_boxes", "cropped", "near_crop_edge"]

Box = tuple[int, int, int, int]
Picture = TypeVar("Picture", Tensor, Image.Image)
NEAR = 20.0
"""Pixels from the edge of a crop within which a box counts as cut off."""


def crop_boxes(size: tuple[int, int], layers: int, overlap_ratio: float) -> list[tuple[int, Box]]:
    """The whole picture, then (2^i)^2 crops in layer i = 1, 2, ..., which overlap.

    Args:
        size: (H, W) of the picture.
        layers: of crops beyond the whole picture.
        overlap_ratio: of crops in the first layer, as a share of the picture's shorter side; half of it in the next.

    Returns:
        (layer, xyxy), the whole picture as layer 0.
    """
    height, width = size
    boxes: list[tuple[int, Box]] = [(0, (0, 0, width, height))]
    for layer in range(1, layers + 1):
        side = 2**layer
        overlap = int(overlap_ratio * min(height, width) * (2 / side))
        w, h = (math.ceil((overlap * (side - 1) + length) / side) for length in (width, height))
        for x0, y0 in product([(w - overlap) * i for i in range(side)], [(h - overlap) * i for i in range(side)]):
            boxes.append((layer, (x0, y0, min(x0 + w, width), min(y0 + h, height))))
    return boxes


def cropped(picture: Picture, box: Box) -> Picture:
    """A part of a picture; the picture itself where the box is all of it."""
    x0, y0, x1, y1 = box
    if isinstance(picture, Tensor):
        return picture[..., y0:y1, x0:x1]
    return picture if box == (0, 0, picture.width, picture.height) else picture.crop(box)


def near_crop_edge(boxes: Float[Tensor, "N 4"], crop: Box, size: tuple[int, int]) -> Bool[Tensor, "N"]:
    """Whether a box ends at an edge of its crop that is no edge of the picture: its object is probably cut off.

    Args:
        boxes: xyxy in pixels of the picture.
        crop: that they were found in.
        size: (H, W) of the picture.
    """
    whole = tensor([0.0, 0.0, size[1], size[0]])
    at_crop = (boxes - tensor(crop).float()).abs() <= NEAR
    return (at_crop & ((boxes - whole).abs() > NEAR)).any(1)
