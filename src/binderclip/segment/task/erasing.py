"""A picture without what is in a box: the stand-in for an inpainting model."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

__all__ = ["filled_from_border"]


def filled_from_border(
    image: Image.Image, box: tuple[int, int, int, int], paint: str = "", avoid: str = ""
) -> Image.Image:
    """Fill a box with the colours of the nearest pixels around it, smoothed towards its middle.

    A box that is the whole picture becomes its mean colour.

    Args:
        image: RGB.
        box: xyxy in pixels, half-open.
        paint, avoid: words that an inpainting model would take; colours need none.
    """
    pixels = np.asarray(image.convert("RGB"), dtype=np.float32)
    x0, y0, x1, y1 = box
    hole = np.zeros(pixels.shape[:2], dtype=bool)
    hole[max(0, y0) : y1, max(0, x0) : x1] = True
    if not hole.any():
        return image
    if hole.all():
        filled = np.broadcast_to(pixels.mean((0, 1)), pixels.shape)
    else:
        depth, nearest = ndimage.distance_transform_edt(hole, return_indices=True)
        copied = pixels[nearest[0], nearest[1]]
        sigma = max(1.0, min(x1 - x0, y1 - y0) / 8)
        smooth = ndimage.gaussian_filter(copied, (sigma, sigma, 0))
        weight = np.clip(depth / (2 * sigma), 0, 1)[..., None]
        filled = np.where(hole[..., None], (1 - weight) * copied + weight * smooth, pixels)
    return Image.fromarray(filled.round().clip(0, 255).astype(np.uint8))
