"""Captioned pictures that the bundled denoiser learns from: the packs' drawings on grounds, and plain shapes.

Drawings that are silhouettes are painted in a colour, which their caption then names; one or two plain shapes on a
plain ground have captions that say all there is to see, so that what an edit should change is known exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from binderclip.data import load_packs

__all__ = ["COLOURS", "SHAPES", "CaptionedPicture", "drawing_pictures", "shape_pictures"]

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 38, 45),
    "green": (58, 160, 70),
    "blue": (45, 95, 215),
    "yellow": (245, 205, 40),
    "orange": (240, 130, 35),
    "purple": (135, 65, 175),
    "pink": (240, 125, 175),
    "brown": (125, 80, 50),
    "black": (30, 30, 32),
    "gray": (140, 142, 146),
}
SHAPES = ("circle", "square", "triangle", "star", "ring", "cross", "diamond", "heart")
LIGHT = 205  # least value of a channel of a light ground, on which every drawing can be made out
SUPERSAMPLING = 4


@dataclass(frozen=True)
class CaptionedPicture:
    """A picture with the words that go with it.

    Args:
        pixels: values 0..255.
        caption: what is to be seen.
        kind: `shape`, `silhouette`, or the pack or style it is from.
        alpha: how much of each pixel the drawing covers, 0..255.
    """

    pixels: UInt8[np.ndarray, "64 64 3"]
    caption: str
    kind: str
    alpha: UInt8[np.ndarray, "64 64"]


def drawing_pictures(split: str, seed: int, *, limit: int | None = None) -> list[CaptionedPicture]:
    """Every drawing of the packs once: 6 of 10 on white, the others on a light colour.

    Args:
        split: of the packs.
        seed: of grounds and paints.
        limit: so many drawings, in an order drawn from the seed; default all.
    """
    rng = np.random.default_rng(seed)
    samples = load_packs("packs", split, mode="RGBA")
    order = rng.permutation(len(samples))[:limit]
    pictures = []
    for index in order:
        sample = samples[int(index)]
        ground = (255, 255, 255) if rng.random() < 0.6 else _light(rng)
        picture, caption = sample.image, sample.caption
        kind = str(sample.attributes.get("style") or sample.source)
        if sample.attributes.get("mono"):
            colour = str(rng.choice(list(COLOURS)))
            painted = Image.new("RGBA", picture.size, (*COLOURS[colour], 255))
            painted.putalpha(picture.getchannel("A"))
            picture, caption, kind = painted, f"{colour} {caption}", "silhouette"
        pictures.append(_on(picture, ground, caption, kind))
    return pictures


def shape_pictures(count: int, seed: int, *, pairs: float = 0.4) -> list[CaptionedPicture]:
    """Plain shapes on plain grounds; two of them do not touch.

    Args:
        count: how many pictures.
        seed: of everything.
        pairs: share of pictures with two shapes.
    """
    rng = np.random.default_rng(seed)
    return [_shapes(rng, 2 if rng.random() < pairs else 1) for _ in range(count)]


def _shapes(rng: np.random.Generator, number: int) -> CaptionedPicture:
    side = 64 * SUPERSAMPLING
    picture = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    draw = ImageDraw.Draw(picture)
    words, centres = [], []
    names = list(COLOURS)
    for place in range(number):
        radius = rng.uniform(0.2, 0.4) if number == 1 else rng.uniform(0.13, 0.21)
        if number == 1:
            centre = rng.uniform(radius + 0.03, 1 - radius - 0.03, 2)
        else:  # each in its own half, left and right
            centre = np.array([0.27 + 0.46 * place, rng.uniform(radius + 0.03, 1 - radius - 0.03)])
        colour, shape = str(rng.choice(names)), str(rng.choice(SHAPES))
        _draw_shape(draw, shape, centre * side, radius * side, COLOURS[colour])
        words.append(f"a {colour} {shape}")
        centres.append(centre)
    caption = " and ".join(words)
    ground = (255, 255, 255)
    if rng.random() < 0.5:
        ground = _light(rng)
    return _on(picture.resize((64, 64), Image.Resampling.BOX), ground, caption, "shape")


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, centre: np.ndarray, radius: float, colour: tuple[int, int, int]
) -> None:
    x, y = (float(value) for value in centre)
    fill = (*colour, 255)
    box = [x - radius, y - radius, x + radius, y + radius]
    if shape in ("circle", "ring"):
        draw.ellipse(box, fill=fill)
        if shape == "ring":
            hole = 0.55 * radius
            draw.ellipse([x - hole, y - hole, x + hole, y + hole], fill=(0, 0, 0, 0))
    elif shape == "cross":
        arm = 0.36 * radius
        draw.rectangle([x - radius, y - arm, x + radius, y + arm], fill=fill)
        draw.rectangle([x - arm, y - radius, x + arm, y + radius], fill=fill)
    else:
        outline = [(x + radius * u, y + radius * v) for u, v in _outline(shape)]
        draw.polygon(outline, fill=fill)


def _outline(shape: str) -> list[tuple[float, float]]:
    """Corners of a shape inside the unit circle; y points down."""
    if shape == "square":
        return [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    if shape == "heart":  # the usual parametric heart, scaled to the unit circle
        t = np.linspace(0, 2 * math.pi, 60)
        x = 16 * np.sin(t) ** 3
        y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
        return list(zip((x / 17).tolist(), (-(y + 2.5) / 17).tolist(), strict=True))
    corners = {"triangle": 3, "diamond": 4, "star": 10}[shape]
    outline = []
    for corner in range(corners):
        length = 0.42 if shape == "star" and corner % 2 else 1.0
        angle = 2 * math.pi * corner / corners - math.pi / 2
        outline.append((length * math.cos(angle), length * math.sin(angle)))
    return outline


def _light(rng: np.random.Generator) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in rng.integers(LIGHT, 256, 3))
    return red, green, blue


def _on(picture: Image.Image, ground: tuple[int, int, int], caption: str, kind: str) -> CaptionedPicture:
    canvas = Image.new("RGBA", picture.size, (*ground, 255))
    canvas.alpha_composite(picture.convert("RGBA"))
    return CaptionedPicture(np.asarray(canvas.convert("RGB")), caption, kind, np.asarray(picture.getchannel("A")))
