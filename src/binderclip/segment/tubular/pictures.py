"""A whole picture traced through several points, at the scale that a tracer was trained for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.tubular.tracer import TubularTracer

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["TracedLine", "trace_picture"]

SIZE = 256
"""Longest side, in pixels, at which a picture is traced where nothing else is said."""


@dataclass(frozen=True)
class TracedLine:
    """A line in a picture.

    Attributes:
        points: (x, y) in pixels of the picture, from the first given point to the last.
        mask: pixels of the tube along the line; None where the tracer gives no masks.
        cost: mean cost a pixel of what was traced: about 1 on a sure tube, 1 / eps where nothing looks like one.
    """

    points: Float[Tensor, "L 2"]
    mask: Bool[Tensor, "H W"] | None
    cost: float

    @property
    def length(self) -> float:
        """In pixels of the picture."""
        return float((self.points[1:] - self.points[:-1]).norm(dim=1).sum())


def trace_picture(
    tracer: TubularTracer, picture: Image.Image, points: Sequence[tuple[float, float]], *, size: int = SIZE
) -> TracedLine:
    """Trace a tube through points of a picture, one piece after the other.

    The picture is traced with its longest side at `size`, never enlarged: cost grows with the square of it, and a tube
    must come out about as wide as those that the tracer learnt (`small-tracer`: 2 to 4 pixels).

    Args:
        tracer: whose network is on the CPU.
        picture: of any size.
        points: two or more, (x, y) in its pixels.
        size: in pixels, at least 16.

    Raises:
        UsageError: fewer than two points, one outside, two that fall on one pixel, or a size below 16.
    """
    if len(points) < 2:
        raise UsageError(f"a line needs two points at least, not {len(points)}")
    if size < 16:
        raise UsageError(f"size must be at least 16 pixels, not {size}")
    for x, y in points:
        if not (0 <= x < picture.width and 0 <= y < picture.height):
            raise UsageError(f"point {x:g},{y:g} is outside the picture of {picture.width} x {picture.height} pixels")
    scale = min(1.0, size / max(picture.size))
    small = (max(3, round(picture.width * scale)), max(3, round(picture.height * scale)))
    pixels = np.asarray(picture.convert("RGB").resize(small) if scale < 1 else picture.convert("RGB"))
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255  # (3, h, w)
    height, width = image.shape[-2:]
    ratio = torch.tensor([picture.width / width, picture.height / height])
    marks = [_pixel(x, ratio[0], width) for x, _ in points], [_pixel(y, ratio[1], height) for _, y in points]
    pieces, tracer = [], tracer.folded()
    for number, (start, end) in enumerate(pairwise(zip(*marks, strict=True))):
        if start == end:
            raise UsageError(f"points {number + 1} and {number + 2} fall on one pixel: they are too near each other")
        pieces.append(tracer(image, start, end))
    path = torch.cat([pieces[0].path[:1], *(piece.path[1:] for piece in pieces)])
    line = (path.flip(1).float() + 0.5) * ratio - 0.5  # pixel centres to pixel centres
    masks = [piece.mask for piece in pieces if piece.mask is not None]
    mask = None
    if masks:
        any_of = torch.stack(masks).any(0).float()[None, None]
        mask = F.interpolate(any_of, size=(picture.height, picture.width), mode="bilinear")[0, 0] >= 0.5
    walked = sum(piece.length for piece in pieces)
    return TracedLine(line, mask, sum(piece.cost for piece in pieces) / walked)


def _pixel(place: float, ratio: Tensor, count: int) -> int:
    """The pixel of the smaller picture that a place of the larger one, whose pixels' centres are whole, falls on."""
    return min(max(int((place + 0.5) / float(ratio)), 0), count - 1)
