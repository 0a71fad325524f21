"""Where to look: a region of an image as a box, a mask or a point, and the conversions between them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from binderclip.errors import UsageError
from binderclip.settings import check_choice

Shape = Literal["box", "ellipse", "mask", "keypoint"]
Box = tuple[float, float, float, float]

KEYPOINT_RADIUS = 0.06
"""Radius of the circle that stands for a point, as a share of the image's shorter side."""


@dataclass(frozen=True, eq=False)
class Region:
    """A part of an image, given as a box, a mask, a point, or several of them.

    Coordinates are pixels of the image it belongs to, x to the right and y down; boxes are half-open. What is not given
    follows from the rest: the box of a mask is its tight box, that of a point the square around its circle; the mask
    of a box is the filled box, its point the centre.

    Args:
        box: (x0, y0, x1, y1). What sticks out of the image is cut off, not moved in.
        mask: (H, W), anything that is true inside; of the image's size.
        point: (x, y).
        name: for people.

    Raises:
        UsageError: nothing is given, numbers that are not finite, an empty box or mask.

    Examples:
        >>> int(Region((2, 1, 6, 4)).inside("box", 5, 8).sum())
        12
    """

    box: Box | None = None
    mask: Bool[np.ndarray, "H W"] | None = None
    point: tuple[float, float] | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if self.box is None and self.mask is None and self.point is None:
            raise UsageError("a Region needs a box (x0, y0, x1, y1), a mask (H, W) or a point (x, y)")
        if self.box is not None:
            box = _numbers("box", self.box, 4)
            if not (box[0] < box[2] and box[1] < box[3]):
                raise UsageError(f"box {box} is empty: x0, y0, x1, y1 with x0 < x1 and y0 < y1 are wanted")
            object.__setattr__(self, "box", box)
        if self.point is not None:
            object.__setattr__(self, "point", _numbers("point", self.point, 2))
        if self.mask is not None:
            mask = np.asarray(self.mask).astype(bool)
            if mask.ndim != 2 or not mask.any():
                raise UsageError(f"mask must be (H, W) with at least one pixel inside, not {mask.shape}")
            object.__setattr__(self, "mask", mask)

    def bounds(self, height: int, width: int) -> tuple[int, int, int, int]:
        """The box in whole pixels of an image of that size: half-open, rounded, cut at the border, never empty.

        Raises:
            UsageError: the region lies outside the image, or the mask is of another size.
        """
        if self.box is not None:
            x0, y0, x1, y1 = self.box
        elif self.mask is not None:
            self._check(height, width)
            rows, columns = np.flatnonzero(self.mask.any(1)), np.flatnonzero(self.mask.any(0))
            x0, y0, x1, y1 = (int(edge) for edge in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        else:
            x, y = self.centre(height, width)
            radius = KEYPOINT_RADIUS * min(height, width)
            x0, y0, x1, y1 = x - radius, y - radius, x + radius, y + radius
        if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
            raise UsageError(f"{self._called()} lies outside the image of {width} x {height} pixels")
        left, right = _interval(x0, x1, width)
        top, bottom = _interval(y0, y1, height)
        return left, top, right, bottom

    def centre(self, height: int, width: int) -> tuple[float, float]:
        """The point, or the middle of the box (x, y).

        Raises:
            UsageError: a point outside the image, or as `bounds`.
        """
        if self.point is not None:
            x, y = self.point
            if not (0 <= x <= width and 0 <= y <= height):
                raise UsageError(f"{self._called()} lies outside the image of {width} x {height} pixels")
            return x, y
        x0, y0, x1, y1 = self.bounds(height, width)
        return (x0 + x1) / 2, (y0 + y1) / 2

    def inside(self, shape: Shape, height: int, width: int) -> Bool[np.ndarray, "H W"]:
        """Which pixels of an image of that size belong to the region.

        Args:
            shape: "box"; "ellipse" (inscribed in the box); "mask" (without one the filled box); "keypoint" (a circle of
                radius 0.06 of the shorter side around the centre).
            height: of the image.
            width: of the image.

        Raises:
            UsageError: an unknown shape, or as `bounds`.
        """
        check_choice("shape", shape, get_args(Shape))
        if shape == "mask" and self.mask is not None:
            self._check(height, width)
            return self.mask.copy()
        x0, y0, x1, y1 = self.bounds(height, width)
        if shape in ("box", "mask"):
            mask = np.zeros((height, width), dtype=bool)
            mask[y0:y1, x0:x1] = True
            return mask
        canvas = Image.new("1", (width, height))
        ImageDraw.Draw(canvas).ellipse(self.oval(shape, height, width), fill=1)
        return np.array(canvas, dtype=bool)

    def oval(self, shape: Shape, height: int, width: int) -> tuple[int, int, int, int]:
        """The ellipse of the box, or the circle around the centre, as Pillow's inclusive corners in whole pixels."""
        if shape == "keypoint":
            x, y = self.centre(height, width)
            across = max(round(2 * KEYPOINT_RADIUS * min(height, width)), 1)
            left, top = math.floor(x - across / 2 + 0.5), math.floor(y - across / 2 + 0.5)
            return left, top, left + across - 1, top + across - 1
        x0, y0, x1, y1 = self.bounds(height, width)
        return x0, y0, x1 - 1, y1 - 1

    def scaled(self, before: tuple[int, int], after: tuple[int, int]) -> Region:
        """The same region after the image was resized, each axis by its own factor.

        A mask is resized bilinearly and cut at one half; one that vanishes keeps the pixel of its centre.

        Args:
            before: (h, w) of the image now.
            after: (h, w) of the resized image.
        """
        if before == after:
            return self
        fy, fx = after[0] / before[0], after[1] / before[1]
        return replace(
            self,
            box=None if self.box is None else (self.box[0] * fx, self.box[1] * fy, self.box[2] * fx, self.box[3] * fy),
            point=None if self.point is None else (self.point[0] * fx, self.point[1] * fy),
            mask=None if self.mask is None else self._resized(self.mask, before, after),
        )

    def _resized(self, mask: np.ndarray, before: tuple[int, int], after: tuple[int, int]) -> np.ndarray:
        self._check(*before)
        picture = Image.fromarray(mask.astype(np.uint8) * 255)
        small = np.array(picture.resize((after[1], after[0]), Image.Resampling.BILINEAR)) >= 128
        if not small.any():
            rows, columns = np.nonzero(mask)
            y = min(int(rows.mean() * after[0] / before[0]), after[0] - 1)
            small[y, min(int(columns.mean() * after[1] / before[1]), after[1] - 1)] = True
        return small

    def cropped(self, window: tuple[int, int, int, int]) -> Region:
        """The same region in the coordinates of a window (x0, y0, x1, y1) cut out of the image."""
        x0, y0, x1, y1 = window
        box = self.box
        mask = None if self.mask is None else self.mask[y0:y1, x0:x1]
        if box is not None:
            box = (box[0] - x0, box[1] - y0, box[2] - x0, box[3] - y0)
        elif mask is not None and not mask.any():
            raise UsageError(f"{self._called()} lies outside the window {window}")
        point = None if self.point is None else (self.point[0] - x0, self.point[1] - y0)
        return replace(self, box=box, mask=mask if mask is not None and mask.any() else None, point=point)

    def flipped(self, width: int) -> Region:
        """The same region in the horizontally mirrored image."""
        return replace(
            self,
            box=None if self.box is None else (width - self.box[2], self.box[1], width - self.box[0], self.box[3]),
            mask=None if self.mask is None else self.mask[:, ::-1],
            point=None if self.point is None else (width - self.point[0], self.point[1]),
        )

    def _check(self, height: int, width: int) -> None:
        if self.mask is not None and self.mask.shape != (height, width):
            raise UsageError(
                f"{self._called()}: its mask is {self.mask.shape[1]} x {self.mask.shape[0]} pixels, the image "
                f"{width} x {height}"
            )

    def _called(self) -> str:
        """The region in words, for messages."""
        if self.name:
            return f"region {self.name!r}"
        if self.box is not None:
            return f"box {tuple(round(v, 1) for v in self.box)}"
        return "the region" if self.point is None else f"point {self.point}"


def as_regions(regions: Sequence[Region | Sequence[float]]) -> list[Region]:
    """Regions from regions, boxes of four numbers, points of two, or masks (H, W).

    Raises:
        UsageError: none, or something else.
    """
    result = []
    for region in regions:
        if isinstance(region, Region):
            result.append(region)
            continue
        values = np.asarray(region)
        if values.shape == (4,):
            x0, y0, x1, y1 = (float(v) for v in values)
            result.append(Region(box=(x0, y0, x1, y1)))
        elif values.shape == (2,):
            result.append(Region(point=(float(values[0]), float(values[1]))))
        elif values.ndim == 2:
            result.append(Region(mask=values))
        else:
            raise UsageError(f"a region is a Region, a box of 4 numbers, a point of 2 or a mask (H, W), not {region!r}")
    if not result:
        raise UsageError("regions is empty: give at least one")
    return result


def as_rgb(image: object) -> UInt8[np.ndarray, "H W 3"]:
    """Anything that is an image as 8-bit RGB; see `data.open_image`."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3:
        return image
    from binderclip.data import open_image

    return np.asarray(open_image(image))  # type: ignore[arg-type]


def _interval(low: float, high: float, most: int) -> tuple[int, int]:
    first = min(max(math.floor(low + 0.5), 0), most - 1)
    return first, min(max(math.floor(high + 0.5), first + 1), most)


def _numbers(name: str, values: Sequence[float], count: int) -> tuple[float, ...]:
    numbers = tuple(float(v) for v in values)
    if len(numbers) != count or not all(math.isfinite(v) for v in numbers):
        raise UsageError(f"{name} must be {count} finite numbers in pixels, not {values!r}")
    return numbers
