"""One cut-out picture made ready to paste: turned, mirrored, recoloured, resized, with its exact mask."""

from __future__ import annotations

import numpy as np
from PIL import Image

from binderclip.data.synthetic_scenes.paste import Piece
from binderclip.data.synthetic_scenes.vocabulary import OPAQUE, Vocabulary

# Colours that a person tells apart at once; values in 0..255.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40),
    "orange": (250, 130, 20),
    "yellow": (245, 210, 30),
    "green": (44, 150, 60),
    "blue": (40, 90, 210),
    "purple": (130, 60, 180),
    "pink": (245, 130, 180),
    "brown": (120, 75, 40),
    "grey": (128, 128, 128),
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}


def turned(source: Vocabulary, row: int, rotation: float, flip: bool) -> Image.Image:
    """The cropped sprite, mirrored left to right and then turned counter-clockwise by `rotation` degrees."""
    image = source.cut(row)
    if flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if rotation % 360:
        image = image.rotate(rotation, Image.Resampling.BICUBIC, expand=True)
        image = image.crop(image.getchannel(3).point(lambda a: 255 * (a >= OPAQUE // 8)).getbbox())
    return image


def fit_shape(image: Image.Image, pixels: float, limit: tuple[float, float]) -> tuple[int, int]:
    """(h, w) that gives the object `pixels` opaque pixels, or the largest that stays within `limit` (h, w).

    The box is at most three times as large as `pixels`: a thin object is not blown up until its lines fill that area.
    """
    solid = max(1, sum(image.getchannel(3).histogram()[OPAQUE:]))
    area = image.height * image.width
    scale = min((pixels / solid) ** 0.5, (3 * pixels / area) ** 0.5, limit[0] / image.height, limit[1] / image.width)
    return max(2, round(image.height * scale)), max(2, round(image.width * scale))


def render_cutout(image: Image.Image, shape: tuple[int, int], colour: str | None = None) -> Piece:
    """Resize a premultiplied picture to `shape` (h, w) and take its mask.

    Enlarging blurs the edge over as many pixels as the factor; the alpha ramp is made steeper by the same factor, so
    that the edge stays about one pixel wide and the mask says what one sees.

    Args:
        image: premultiplied (mode RGBa).
        shape: (h, w) in pixels.
        colour: a name of `COLOURS` to paint the object in; its shading is kept.
    """
    height, width = shape
    factor = height / image.height
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX)
    raw = np.asarray(image).astype(np.float32) * np.float32(1 / 255)
    alpha = raw[..., 3]
    rgb = raw[..., :3]
    if factor > 1.25 or colour is not None:
        rgb = np.minimum(rgb / np.maximum(alpha, 1 / 255)[..., None], 1)
        if factor > 1.25:
            alpha = np.clip((alpha - 0.5) * np.float32(factor) + 0.5, 0, 1)
        if colour is not None:
            rgb = _painted(rgb, alpha >= 0.5, colour)
        rgb = rgb * alpha[..., None]
    return Piece(rgb, alpha, alpha >= 0.5)


def _painted(rgb: np.ndarray, mask: np.ndarray, colour: str) -> np.ndarray:
    """Replace hue and saturation by those of `colour`; light and dark parts stay lighter and darker."""
    light = rgb @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    inside = light[mask]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 1.0)
    shade = np.clip((light - low) / (high - low), 0, 1) if high - low > 0.05 else np.full_like(light, 0.7)
    target = np.asarray(COLOURS[colour], dtype=np.float32) / 255
    dark, bright = 0.45 * target, target + 0.35 * (1 - target)
    return dark + shade[..., None] * (bright - dark)
