"""Visual prompts in pixels: marks on a region, and what is done to everything around it.

Edits are pure functions `(image, region) -> image` on 8-bit pictures that compose from left to right:
`Outside("blur", "mask") | Outline("contour")`. Sizes are shares of the image's side, so that a mark means the same at
every resolution.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageColor, ImageDraw, ImageFilter
from scipy.ndimage import binary_dilation, binary_erosion

from binderclip.adapt.visual_prompts.regions import Region, Shape, as_rgb
from binderclip.errors import UsageError

OutlineShape = Literal["ellipse", "box", "contour", "arrow", "keypoint", "cross"]
Treatment = Literal["blur", "gray", "tint"]
Color = str | tuple[int, int, int]

BLUR = 100 / 384
"""Standard deviation of the blur, as a share of the image's longer side (100 pixels at 384)."""

Pixels = UInt8[np.ndarray, "H W 3"]
Edited = UInt8[np.ndarray, "h w 3"]


def rgb(color: Color) -> tuple[int, int, int]:
    """(r, g, b) of a colour name, "#rrggbb" or a triple 0..255; "green" is the pure (0, 255, 0) of the papers.

    Raises:
        UsageError: no such colour.
    """
    if isinstance(color, str):
        try:
            channels = ImageColor.getrgb("lime" if color.lower() == "green" else color)
        except ValueError as error:
            raise UsageError(f"color {color!r} is unknown: a name such as red, or #ff0000") from error
        return channels[0], channels[1], channels[2]
    if len(color) != 3 or not all(0 <= v <= 255 for v in color):
        raise UsageError(f"color must be a name or three numbers 0..255, not {color!r}")
    return int(color[0]), int(color[1]), int(color[2])


@dataclass
class Copies:
    """The blurred and grey copies of one image, made when first asked for and shared by all its regions.

    Args:
        image: the picture.
    """

    image: Pixels
    _made: dict[tuple[str, float], np.ndarray] = field(default_factory=dict, repr=False)

    def blurred(self, sigma: float) -> Pixels:
        """The whole image under Pillow's `GaussianBlur(sigma)`, sigma in pixels."""
        key = ("blur", round(sigma, 6))
        if key not in self._made:
            self._made[key] = np.asarray(Image.fromarray(self.image).filter(ImageFilter.GaussianBlur(sigma)))
        return self._made[key]

    def gray(self, swap: bool = False) -> Pixels:
        """The luminance in all three channels; `swap` exchanges the weights of red and blue."""
        key = ("gray", float(swap))
        if key not in self._made:
            source = np.ascontiguousarray(self.image[..., ::-1]) if swap else self.image
            level = np.asarray(Image.fromarray(source).convert("L"))
            self._made[key] = np.repeat(level[..., None], 3, axis=2)
        return self._made[key]


class Edit(ABC):
    """Something done to an image for a region; `a | b` is first `a`, then `b`."""

    @property
    def crops(self) -> bool:
        """Whether it cuts the image, so that it should see the picture at its full resolution."""
        return False

    def __call__(self, image: object, region: Region, *, copies: Copies | None = None) -> Edited:
        """The edited picture; the image itself stays as it is.

        Args:
            image: 8-bit RGB (H, W, 3), or anything `data.open_image` takes.
            region: in pixels of that image.
            copies: `Copies(image)`, to share blurred and grey copies between regions.

        Raises:
            UsageError: the region lies outside the image, or its mask has another size.
        """
        pixels = as_rgb(image)
        return self.draw(pixels, region, copies or Copies(pixels))[0]

    @abstractmethod
    def draw(self, image: Pixels, region: Region, copies: Copies) -> tuple[Edited, Region]:
        """The edited picture, and the region in its coordinates."""

    def __or__(self, other: Edit) -> Edit:
        return Steps((*_steps(self), *_steps(other)))


@dataclass(frozen=True)
class Steps(Edit):
    """Edits one after the other: what `|` makes.

    Args:
        edits: in order.
    """

    edits: tuple[Edit, ...]

    @property
    def crops(self) -> bool:
        return any(edit.crops for edit in self.edits)

    def draw(self, image: Pixels, region: Region, copies: Copies) -> tuple[Edited, Region]:
        for edit in self.edits:
            # Copies belong to the picture they were made of; a later step sees another one.
            image, region = edit.draw(image, region, copies if copies.image is image else Copies(image))
        return image, region


def _steps(edit: Edit) -> tuple[Edit, ...]:
    return edit.edits if isinstance(edit, Steps) else (edit,)


@dataclass(frozen=True)
class Outline(Edit):
    """A mark drawn on the image: the red circle and its relatives, hard-edged as Pillow draws.

    Args:
        shape: "ellipse" (inscribed in the box), "box", "contour" (of the mask), "arrow" (from the side of the image's
            centre to the middle of the box, with a filled head), "keypoint" (circle of radius 0.06 of the shorter side
            around the point), "cross" (as large, on the point).
        color: a name, "#rrggbb" or (r, g, b).
        width: of the line, as a share of the shorter side; at least 1 pixel is drawn, and nothing for 0.

    Raises:
        UsageError: an unknown shape or colour, or a width below 0.

    Examples:
        >>> picture = np.zeros((64, 64, 3), dtype=np.uint8)
        >>> Outline("box")(picture, Region((8, 8, 24, 24)))[8, 8].tolist()
        [255, 0, 0]

    Paper: What does CLIP know about a red circle? Visual prompt engineering for VLMs (arXiv 2304.06712); the arrow:
        Visual Prompt Engineering for Medical Vision Language Models in Radiology (arXiv 2408.15802).
    """

    shape: OutlineShape = "ellipse"
    color: Color = "red"
    width: float = 0.01

    def __post_init__(self) -> None:
        if self.shape not in get_args(OutlineShape):
            raise UsageError(f"Outline shape must be one of {', '.join(get_args(OutlineShape))}, not {self.shape!r}")
        if not 0 <= self.width < 1:
            raise UsageError(f"Outline width must be a share of the side in [0, 1), not {self.width}")
        rgb(self.color)

    def draw(self, image: Pixels, region: Region, copies: Copies) -> tuple[Edited, Region]:
        height, width = image.shape[:2]
        line = 0 if self.width == 0 else max(1, math.floor(self.width * min(height, width) + 0.5))
        box = region.bounds(height, width)
        if not line:
            return image.copy(), region
        colour = rgb(self.color)
        if self.shape == "contour":
            edited = image.copy()
            edited[_rim(region.inside("mask", height, width), line)] = colour
            return edited, region
        canvas = Image.fromarray(image)
        pen = ImageDraw.Draw(canvas)
        if self.shape == "box":
            pen.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), outline=colour, width=line)
        elif self.shape == "arrow":
            _arrow(pen, region, (height, width), colour, line)
        elif self.shape == "cross":
            left, top, right, bottom = region.oval("keypoint", height, width)
            pen.line((left, top, right, bottom), fill=colour, width=line)
            pen.line((left, bottom, right, top), fill=colour, width=line)
        else:
            pen.ellipse(region.oval(self.shape, height, width), outline=colour, width=line)
        return np.array(canvas), region


def _rim(mask: Bool[np.ndarray, "H W"], line: int) -> Bool[np.ndarray, "H W"]:
    """A line on the border of a mask, half outside and half inside; the odd pixel goes outside."""
    outer = binary_dilation(mask, iterations=(line + 1) // 2)
    inner = binary_erosion(mask, iterations=line // 2, border_value=1) if line > 1 else mask
    return outer & ~inner


def _arrow(
    pen: ImageDraw.ImageDraw, region: Region, size: tuple[int, int], colour: tuple[int, int, int], line: int
) -> None:
    """Shaft of a quarter of the shorter side that ends at the region's centre, head of 10 pixels at 256."""
    height, width = size
    x, y = region.centre(height, width)
    away = np.array([x - width / 2, y - height / 2])
    distance = float(np.hypot(*away))
    # On the image's centre there is no direction: from below.
    unit = away / distance if distance > 1e-9 else np.array([0.0, -1.0])
    tip = np.array([x, y])
    tail = tip - unit * 0.25 * min(height, width)
    pen.line((*tail, *tip), fill=colour, width=line)
    head = 10 / 256 * min(height, width)
    side = np.array([-unit[1], unit[0]]) * head / 2
    base = tip - unit * head
    pen.polygon([tuple(tip), tuple(base + side), tuple(base - side)], fill=colour)


@dataclass(frozen=True)
class Tint(Edit):
    """The region tinted: `alpha * color + (1 - alpha) * image`.

    Args:
        shape: "box", "ellipse", "mask" or "keypoint".
        color: a name, "#rrggbb" or (r, g, b).
        alpha: in [0, 1]; 0 changes nothing.

    Raises:
        UsageError: an unknown shape or colour, or alpha outside [0, 1].

    Paper: Fine-Grained Visual Prompting (arXiv 2306.04356).
    """

    shape: Shape = "box"
    color: Color = "green"
    alpha: float = 0.5

    def __post_init__(self) -> None:
        _check_area("Tint", self.shape, self.alpha, self.color)

    def draw(self, image: Pixels, region: Region, copies: Copies) -> tuple[Edited, Region]:
        return _tint(image, region.inside(self.shape, *image.shape[:2]), self.color, self.alpha), region


@dataclass(frozen=True)
class Outside(Edit):
    """Everything outside the region blurred, greyed or tinted; the region itself keeps its pixels.

    The whole image is treated and the region's own pixels are pasted back, so nothing bleeds over the border. With a
    mask and "blur" this is the blur reverse mask.

    Args:
        how: "blur", "gray", or "tint" (with alpha 1 a plain background).
        shape: of the region: "mask", "box", "ellipse" or "keypoint".
        sigma: standard deviation of the blur, as a share of the longer side; 0 changes nothing.
        color: of the tint.
        alpha: of the tint, in [0, 1].
        swap: grey with the weights of red and blue exchanged, as the authors' code does.

    Raises:
        UsageError: an unknown treatment, shape or colour, sigma below 0 or alpha outside [0, 1].

    Paper: Fine-Grained Visual Prompting (arXiv 2306.04356).
    """

    how: Treatment = "blur"
    shape: Shape = "mask"
    sigma: float = BLUR
    color: Color = "green"
    alpha: float = 0.5
    swap: bool = False

    def __post_init__(self) -> None:
        if self.how not in get_args(Treatment):
            raise UsageError(f"Outside takes one of {', '.join(get_args(Treatment))}, not {self.how!r}")
        if not self.sigma >= 0:
            raise UsageError(f"Outside sigma must be a share of the side, at least 0, not {self.sigma}")
        _check_area("Outside", self.shape, self.alpha, self.color)

    def draw(self, image: Pixels, region: Region, copies: Copies) -> tuple[Edited, Region]:
        height, width = image.shape[:2]
        inside = region.inside(self.shape, height, width)
        if self.how == "tint":
            return _tint(image, ~inside, self.color, self.alpha), region
        if self.how == "gray":
            around = copies.gray(self.swap)
        else:
            around = copies.blurred(self.sigma * max(height, width)) if self.sigma else image
        return np.where(inside[..., None], image, around), region


@dataclass(frozen=True)
class Crop(Edit):
    """The region's box cut out of the image; context is dropped.

    Args:
        margin: added on each side, as a share of the box's sides.
        least: smallest width and height, as shares of the image's sides.
        square: take the longer side for both, around the middle of the box.

    Raises:
        UsageError: margin below 0, or least outside [0, 1].

    The window's ends are rounded outwards, so that nothing of the box is lost.

    Paper: `Crop(least=0.4, square=True)` is that of Visual Prompt Engineering for Medical Vision Language Models in
        Radiology (arXiv 2408.15802), up to the rounding: the released program cuts both ends down to whole pixels, so
        its window may end one pixel earlier at the right and at the bottom.
    """

    margin: float = 0.0
    least: float = 0.0
    square: bool = False

    def __post_init__(self) -> None:
        if not self.margin >= 0 or not 0 <= self.least <= 1:
            raise UsageError(f"Crop: margin {self.margin} must be at least 0 and least {self.least} in [0, 1]")

    @property
    def crops(self) -> bool:
        return True

    def window(self, region: Region, height: int, width: int) -> tuple[int, int, int, int]:
        """What is cut out: (x0, y0, x1, y1) in whole pixels, inside the image."""
        x0, y0, x1, y1 = region.bounds(height, width)
        x, y = (x0 + x1) / 2, (y0 + y1) / 2
        halves = [
            max((high - low) * (0.5 + self.margin), 0.5 * self.least * side)
            for low, high, side in ((x0, x1, width), (y0, y1, height))
        ]
        if self.square:
            halves = [max(halves)] * 2
        left, top = max(math.floor(x - halves[0]), 0), max(math.floor(y - halves[1]), 0)
        return left, top, min(math.ceil(x + halves[0]), width), min(math.ceil(y + halves[1]), height)

    def draw(self, image: Pixels, region: Region, copies: Copies) -> tuple[Edited, Region]:
        window = self.window(region, *image.shape[:2])
        left, top, right, bottom = window
        return image[top:bottom, left:right].copy(), region.cropped(window)


def _tint(image: Pixels, where: Bool[np.ndarray, "H W"], color: Color, alpha: float) -> Pixels:
    mixed = alpha * np.array(rgb(color), dtype=np.float64) + (1 - alpha) * image.astype(np.float64)
    return np.where(where[..., None], np.floor(mixed + 0.5).astype(np.uint8), image)


def _check_area(name: str, shape: str, alpha: float, color: Color) -> None:
    if shape not in get_args(Shape):
        raise UsageError(f"{name} shape must be one of {', '.join(get_args(Shape))}, not {shape!r}")
    if not 0 <= alpha <= 1:
        raise UsageError(f"{name} alpha must be in [0, 1], not {alpha}")
    rgb(color)


MARKS: dict[str, Edit] = {
    "circle": Outline("ellipse"),
    "box": Outline("box"),
    "arrow": Outline("arrow"),
    "contour": Outline("contour"),
    "keypoint": Outline("keypoint"),
    "cross": Outline("cross"),
    "fill": Tint("mask"),
    "blur": Outside("blur", "mask"),
    "gray": Outside("gray", "mask"),
    "tint": Outside("tint", "mask"),
    "crop": Crop(),
}
"""Marks by the names that `--mark` knows. A region without a mask is taken as its box."""
