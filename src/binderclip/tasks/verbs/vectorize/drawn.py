"""One picture of `vectorize`: how it is read, drawn again, written and compared."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from binderclip.data import open_image, to_tensor
from binderclip.generate import BezierPaths, vectorize
from binderclip.tasks.files.writing import write_svg
from binderclip.tasks.verbs.draw.growing import Looks, picture_of, save_preview
from binderclip.tasks.verbs.vectorize.request import VectorizeRequest

MOST_SIDE = 1024
"""Longest side of the PNG and of the comparison: of larger pictures every path costs seconds."""
WHITE = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class PictureToDraw:
    """A picture as it was read.

    Attributes:
        size: (H, W) of the file.
        pixels: reduced to the side that is drawn, over white. shown: to that of the PNG, over white.
        transparent: whether the drawing has no background.
        background: as `generate.vectorize` takes it.
    """

    size: tuple[int, int]
    pixels: Float[Tensor, "3 h w"]
    shown: Float[Tensor, "3 H W"]
    transparent: bool
    background: Literal["segment", "border", "white"]

    @classmethod
    def read(cls, path: Path, request: VectorizeRequest) -> PictureToDraw:
        """Read a picture.

        Raises:
            DataError: it cannot be read.
        """
        picture = open_image(path, mode="RGBA")
        whole = over_white(picture)
        pixels, shown = (to_tensor(reduced(whole, side)) for side in (request.side, MOST_SIDE))
        clear = request.background == "transparent"
        # what is below the paths of a transparent drawing is white while they are fitted, as the picture is
        return cls(
            (picture.height, picture.width),
            pixels,
            shown,
            clear,
            "white" if request.background == "transparent" else request.background,
        )


@dataclass
class PathDrawing:
    """A picture that is drawn again, and its two files.

    Args:
        source: the picture.
        svg, png: paths of the files.
    """

    source: PictureToDraw
    svg: Path
    png: Path
    param: BezierPaths | None = field(default=None, init=False)

    def draw(self, request: VectorizeRequest, looks: Looks) -> None:
        """Add paths and move them, level by level."""
        result = vectorize(
            self.source.pixels.to(request.device), request.levels(), fill=request.fill, steps=request.steps,
            background=self.source.background, start="segment", callbacks=[looks, _LevelStart(self)], seed=request.seed,
        )  # fmt: skip
        assert isinstance(result.param, BezierPaths)
        self.param = result.param

    def write(self) -> tuple[Image.Image, Path]:
        """Write both files as the drawing is now."""
        assert self.param is not None
        write_svg(self.param.to_svg(self.source.size, transparent=self.source.transparent), self.svg, sync=False)
        size = (self.source.shown.shape[1], self.source.shown.shape[2])
        return save_preview(picture_of(rendered(self.param, size, transparent=self.source.transparent)), self.png)

    def psnr(self) -> tuple[float, float]:
        """Peak signal-to-noise ratio in dB of the drawing, and of its background alone, at the size of the PNG.

        What is transparent is white.
        """
        assert self.param is not None
        shown = self.source.shown
        ground = WHITE if self.source.transparent else tuple(self.param.background.tolist())
        drawing = self.param.render((shown.shape[1], shown.shape[2]), ground)[0].cpu()
        return peak_ratio(drawing, shown), peak_ratio(torch.tensor(ground)[:, None, None], shown)


class _LevelStart:
    """Lets a drawing be written while it grows: a callback of `vectorize`."""

    def __init__(self, drawing: PathDrawing) -> None:
        self.drawing = drawing

    def on_round(self, param: BezierPaths) -> None:
        self.drawing.param = param


def peak_ratio(first: Float[Tensor, "3 #H #W"], second: Float[Tensor, "3 H W"]) -> float:
    """10 log10(1 / mean squared error) in dB; infinite where both are equal."""
    error = float((first.double() - second.double()).square().mean())
    return -10 * math.log10(error) if error else math.inf


def rendered(
    param: BezierPaths, size: tuple[int, int], *, transparent: bool
) -> Float[Tensor, "1 3 H W"] | Float[Tensor, "1 4 H W"]:
    """A drawing at another size, without its background where that is transparent.

    Over black and over white it differs by 1 less its opacity, and over black it is colour times opacity.
    """
    if not transparent:
        return param.render(size)
    black, white = (param.render(size, (level,) * 3) for level in (0.0, 1.0))
    opacity = (1 - (white - black).mean(1, keepdim=True)).clamp(0, 1)
    return torch.cat([(black / opacity.clamp(min=1e-6)).clamp(0, 1), opacity], 1)


def reduced(picture: Image.Image, side: int) -> Image.Image:
    """A picture whose longest side is at most so many pixels, each side at least 1."""
    ratio = side / max(picture.size)
    if ratio >= 1:
        return picture
    size = (max(1, round(picture.width * ratio)), max(1, round(picture.height * ratio)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def over_white(picture: Image.Image) -> Image.Image:
    """A picture with transparency over white."""
    plain = Image.new("RGBA", picture.size, "white")
    plain.alpha_composite(picture)
    return plain.convert("RGB")
