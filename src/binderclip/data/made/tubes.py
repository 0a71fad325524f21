"""Pictures of tubes that cross others before patches with edges: centre lines and pixels are known exactly."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from PIL import Image, ImageDraw
from torch import Tensor

from binderclip.data.synthetic_scenes.background import Background, painters
from binderclip.data.synthetic_scenes.details import Tube, tube
from binderclip.errors import UsageError

__all__ = ["TubePicture", "tube_pictures"]


@dataclass(frozen=True)
class TubePicture:
    """Tubes in a picture, one of which is to be traced.

    Attributes:
        image: in [0, 1].
        lines: (row, column) of the pixels of each centre line, each next to the one before; first the one to trace.
        mask: pixels that a tube covers by at least half.
        own: of these, those of the first tube.
        radius: the first tube's largest, in pixels.
    """

    image: Float[Tensor, "3 S S"]
    lines: tuple[Int[Tensor, "_ 2"], ...]
    mask: Bool[Tensor, "S S"]
    own: Bool[Tensor, "S S"]
    radius: float

    @property
    def line(self) -> Int[Tensor, "L 2"]:
        """The line to trace."""
        return self.lines[0]

    @property
    def start(self) -> tuple[int, int]:
        """(x, y) of the first pixel of the line."""
        return int(self.line[0, 1]), int(self.line[0, 0])

    @property
    def end(self) -> tuple[int, int]:
        """(x, y) of the last pixel of the line."""
        return int(self.line[-1, 1]), int(self.line[-1, 0])


def tube_pictures(
    seed: int,
    n: int,
    *,
    side: int = 96,
    others: tuple[int, int] = (1, 2),
    patches: tuple[int, int] = (5, 9),
    background: Background = ("texture", "photo", "noise"),
    noise: float = 0.06,
) -> list[TubePicture]:
    """Pictures of tubes that cross each other over patches of one colour; picture i depends on (seed, i) only.

    All tubes are drawn alike and annotated. The edges of the patches are lines too, and none of a tube.

    Args:
        seed: any integer of at least 0. n: number of pictures. side: in pixels, at least 32.
        others: least and most other tubes. patches: least and most triangles and quadrilaterals below them.
        background: what `scenes` takes.
        noise: standard deviation of the noise on every pixel.

    Raises:
        UsageError: a value out of its range.
    """
    ranges = all(0 <= low <= high for low, high in (others, patches))
    if seed < 0 or n < 0 or side < 32 or not ranges or noise < 0:
        raise UsageError(
            f"seed, n and noise must not be negative, side at least 32, others and patches ranges; got {seed}, {n}, "
            f"{noise}, {side}, {others}, {patches}"
        )
    paint = painters(background)
    return [
        _picture(np.random.default_rng([seed, index, 174]), side, others, patches, paint, noise) for index in range(n)
    ]


def _picture(
    rng: np.random.Generator, side: int, others: tuple[int, int], patches: tuple[int, int], paint: list, noise: float
) -> TubePicture:
    image = np.asarray(paint[int(rng.integers(len(paint)))](rng, side), dtype=np.float64).copy()
    for _ in range(int(rng.integers(patches[0], patches[1] + 1))):
        image += 0.7 * _patch(rng, side)[..., None] * (rng.uniform(0, 1, 3) - image)
    drawn: list[Tube] = []
    for _ in range(int(rng.integers(others[0], others[1] + 1)) + 1):
        one = tube(rng, image)
        image += one.alpha[..., None] * (one.colour - image)
        drawn.append(one)
    image += rng.normal(0, noise, image.shape)
    drawn.reverse()  # the one on top is the one to trace
    covered = [torch.from_numpy(one.alpha >= 0.5) for one in drawn]
    return TubePicture(
        torch.from_numpy(image.clip(0, 1)).permute(2, 0, 1).float(),
        tuple(torch.from_numpy(_pixels_of(one.line[:, :2])) for one in drawn),
        torch.stack(covered).any(0),
        covered[0],
        float(drawn[0].line[:, 2].max()),
    )


def _patch(rng: np.random.Generator, side: int) -> np.ndarray:
    """A filled triangle or quadrilateral, smoothed as everything that is drawn."""
    corners = rng.uniform(0, 4 * side, 2) + rng.uniform(-2 * side, 2 * side, (int(rng.integers(3, 5)), 2))
    sheet = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(sheet).polygon([tuple(corner) for corner in corners.tolist()], fill=255)
    return np.asarray(sheet.resize((side, side), Image.Resampling.BOX)).astype(np.float64) / 255


def _pixels_of(points: np.ndarray) -> np.ndarray:
    """(row, column) of the pixels that a dense line of (x, y) goes through, without repeats and with no gap.

    Pixel i covers [i, i + 1), as where tubes are drawn.
    """
    pixels = [np.floor(points[0][::-1]).astype(np.int64)]
    for x, y in points[1:]:
        pixel = np.floor([y, x]).astype(np.int64)
        while (step := (pixel - pixels[-1]).clip(-1, 1)).any():
            pixels.append(pixels[-1] + step)
    return np.stack(pixels)
