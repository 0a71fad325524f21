"""New content in a part of a picture of any size: masks, what the model sees, and every other pixel as it was."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from binderclip.data import open_image, to_tensor
from binderclip.errors import UsageError
from binderclip.tasks.events import Saved, emit, warn
from binderclip.tasks.report.sheet import contact_sheet
from binderclip.tasks.request import VerbResult
from binderclip.vision import dilate, erode

ALPHA_SIDE = 256
"""Pixels that transparency is reduced to before it goes on smoothly into a mask."""
CONTEXT = 2.0
"""Side of what the model sees, in longer sides of the mask, so that most of it is known."""
LARGE = 0.5
"""Share of the picture above which a mask is likely to be more than what was meant."""
LEAK, LEAST_KNOWN = 1e-5, 1e-3
"""Of a resized place: the weight of hidden pixels that matters, and that of known ones below which all is hidden."""
SMALL_HOLE = 0.05
"""Part of a mask that a hole in it must have to stay, such as what is seen through an arch."""
Painter = Callable[[Float[Tensor, "1 3 s t"], Float[Tensor, "1 1 s t"]], Float[Tensor, "1 3 s t"]]
"""From a picture at the model's side and its mask to the picture with new content."""


def read_mask(path: str, picture: Image.Image) -> Bool[Tensor, "H W"]:
    """A mask of a file: white, or above half of the range, is inside.

    Raises:
        UsageError: no such file, a mask of another size than the picture, an empty one, or one of the whole picture.
        DataError: it cannot be read.
    """
    if not Path(path).is_file():
        raise UsageError(f"--mask {path}: there is no such file")
    mask = open_image(path).convert("L")
    if mask.size != picture.size:
        raise UsageError(
            f"--mask {path} is {mask.width} x {mask.height} px, the picture {picture.width} x {picture.height}: make a "
            "mask of the same size"
        )
    return checked_mask(torch.from_numpy(np.asarray(mask) > 127), f"--mask {path}")


def checked_mask(mask: Bool[Tensor, "H W"], name: str) -> Bool[Tensor, "H W"]:
    """The mask.

    Raises:
        UsageError: it is empty, or leaves nothing of the picture.
    """
    if not bool(mask.any()):
        raise UsageError(f"{name} is empty: white (255) has to mark what is painted anew")
    if bool(mask.all()):
        raise UsageError(f"{name} is the whole picture: nothing is left for the new content to go by")
    return mask


def window_around(mask: Bool[Tensor, "H W"], side: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of what the model sees: a square around the mask, cut at the picture's borders.

    Args:
        mask: of the picture's size, not empty.
        side: of the model; the square is not smaller.
    """
    height, width = mask.shape
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    edge = min(max(side, math.ceil(CONTEXT * max(bottom - top, right - left))), max(height, width))
    first_row = min(max(0, (top + bottom - edge) // 2), max(0, height - edge))
    first_column = min(max(0, (left + right - edge) // 2), max(0, width - edge))
    return first_column, first_row, min(width, first_column + edge), min(height, first_row + edge)


def painted(
    picture: Image.Image,
    mask: Bool[Tensor, "H W"],
    paint: Painter,
    side: int,
    *,
    feather: int = 0,
    square: bool = True,
    quiet: bool = False,
) -> Image.Image:
    """A picture with new content in a mask; pixels outside of it are the same, bit for bit.

    Args:
        picture: RGB, of any size.
        mask: where new content belongs.
        paint: works at the model's side.
        side: of the model in pixels; what it sees is resized to it.
        feather: pixels inside the mask's edge over which old and new content mix.
        square: what is painted has to be as high as it is wide; else `side` is the longer one's.
        quiet: say nothing of a mask that is large.
    """
    if not quiet and float(mask.float().mean()) > LARGE:
        warn(f"the mask is {float(mask.float().mean()):.0%} of the picture: little is left for the rest to go by")
    left, top, right, bottom = window_around(mask, side)
    seen = to_tensor(picture.crop((left, top, right, bottom)))[None]  # (1, 3, h, w)
    hole = mask[top:bottom, left:right].float()[None, None]
    height, width = seen.shape[-2:]
    edge = max(height, width)
    # a picture that is narrower than the square goes on as its last row or column does
    margin = (0, edge - width, 0, edge - height) if square else (0, 0, 0, 0)
    whole, whole_hole = F.pad(seen, margin, mode="replicate"), F.pad(hole, margin)
    size = whole.shape[-2:]
    reduced = (side, side) if square else (max(1, round(height * side / edge)), max(1, round(width * side / edge)))
    new = paint(*_at_size(whole, whole_hole, reduced)).float().cpu()
    if edge != side:
        new = F.interpolate(new, tuple(size), mode="bicubic", antialias=True).clamp(0, 1)
    alpha = _feathered(hole, feather)
    mixed = torch.lerp(seen, new[..., :height, :width], alpha)[0].permute(1, 2, 0)  # (h, w, 3)
    values = np.asarray(picture).copy()
    inside = mask[top:bottom, left:right].numpy()
    values[top:bottom, left:right][inside] = (255 * mixed).round().byte().numpy()[inside]
    return Image.fromarray(values)


def with_transparency(original: Image.Image, new: Image.Image, mask: Bool[Tensor, "H W"]) -> Image.Image:
    """A picture with new content that is as transparent as its original; outside of the mask it is the original's.

    Args:
        original: RGB, or RGBA, of which `new` was painted laid on white.
        new: RGB.
        mask: where new content is; there transparency goes on from around it, as smoothly as can be.
    """
    if original.mode != "RGBA":
        return new
    from binderclip.generate import biharmonic_fill

    alpha = original.getchannel("A")

    def paint(images: Float[Tensor, "1 3 s t"], hole: Float[Tensor, "1 1 s t"]) -> Float[Tensor, "1 3 s t"]:
        return biharmonic_fill(images, hole).clamp(0, 1)

    left, top, right, bottom = window_around(mask, ALPHA_SIDE)
    side = min(ALPHA_SIDE, max(right - left, bottom - top))
    filled = painted(Image.merge("RGB", [alpha] * 3), mask, paint, side, square=False, quiet=True).getchannel("R")
    changed = Image.merge("RGBA", [*new.split(), filled])
    return Image.composite(changed, original, Image.fromarray(mask.numpy().astype(np.uint8) * 255))


def _at_size(image: Tensor, hole: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Picture and hole at another height and width; what goes leaks into nothing that stays."""
    if tuple(image.shape[-2:]) == size:
        return image, hole
    known = 1 - hole
    resized, whole = (F.interpolate(x, size, mode="bicubic", antialias=True) for x in (image, known))
    # a place whose weights reach into the hole is the mean of what is known there, by weights that are not negative
    mean, weight = (F.interpolate(x, size, mode="bilinear", antialias=True) for x in (image * known, known))
    leaks = ((whole - 1).abs() > LEAK) & (weight > LEAST_KNOWN)
    resized = torch.where(leaks, mean / weight.clamp(min=LEAST_KNOWN), resized).clamp(0, 1)
    if max(image.shape[-2:]) < max(size):
        return resized, F.interpolate(hole, size, mode="nearest")
    return resized, F.adaptive_max_pool2d(hole, size)  # a place of which any pixel is inside


def _feathered(hole: Float[Tensor, "1 1 h w"], feather: int) -> Float[Tensor, "1 1 h w"]:
    """1 from `2 feather` pixels inside the mask's edge, falling to 0 at it."""
    if not feather:
        return hole
    size = 2 * feather + 1
    inner = F.pad(erode(hole, size), (feather,) * 4, mode="replicate")
    return F.avg_pool2d(inner, size, stride=1)


def grown(mask: Bool[Tensor, "H W"], pixels: int) -> Bool[Tensor, "H W"]:
    """The mask, larger by so many pixels on each side.

    Raises:
        UsageError: it is the whole picture then.
    """
    return checked_mask(dilate(mask, 2 * pixels + 1), f"the mask, grown by {pixels} px,")


def without_small_holes(mask: Bool[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """The mask without holes smaller than a part `SMALL_HOLE` of it: what lies there would be left floating."""
    from scipy import ndimage

    holes, count = ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)
    sizes = np.bincount(holes.ravel(), minlength=count + 1)
    small = sizes < SMALL_HOLE * mask.sum()
    small[0] = False  # no hole: the mask itself and what lies around it
    return mask | small[holes]


def write_sheet(pictures: list[tuple[Image.Image, str]], path: Path, title: str) -> Path:
    """Write pictures beside each other, before and after, and say so."""
    side = min(512, max(192, *(max(one.size) for one, _ in pictures)))
    entries: list[tuple[Any, str, str]] = [(one, caption, "") for one, caption in pictures]
    contact_sheet(entries, path, title=title, columns=len(entries), side=side)
    emit(Saved(path))
    return path


@dataclass(frozen=True)
class Retouched(VerbResult):
    """A picture with new content in a mask.

    Attributes:
        picture: the result. mask: (H, W) of bool, what was painted anew.
        share: of the picture's pixels that is. changed: share of these whose colour is another.
        change: mean absolute change inside of the mask, of a range of 1.
        seen: (left, top, right, bottom) of what was looked at. side: to which it was resized.
        out, mask_path, sheet: the files. method: by which it was painted.
    """

    request: Any
    picture: Image.Image
    mask: np.ndarray
    share: float
    changed: float
    change: float
    seen: tuple[int, int, int, int]
    side: int
    out: Path
    mask_path: Path
    sheet: Path
    method: str
    complete: bool = True

    @property
    def scale(self) -> float:
        """Pixels of the picture for one of what was looked at."""
        left, top, right, bottom = self.seen
        return max(right - left, bottom - top) / self.side

    @property
    def mask_picture(self) -> Image.Image:
        """The mask, 255 inside."""
        return Image.fromarray(self.mask.astype(np.uint8) * 255)

    @property
    def title(self) -> str:
        return (
            f"{self.share:.1%} of the picture painted anew by {self.method}; {self.changed:.0%} of these pixels are "
            f"others, by {self.change:.2f} of the range on average; all others are as they were"
        )

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """No row: a sentence says it all."""
        return ("share", "changed", "change"), []

    def conclusion(self) -> list[str]:
        """What changed, what the model saw, and where the files are."""
        left, top, right, bottom = self.seen
        window = f"painted by what is seen from x {left} to {right}, y {top} to {bottom}, at {self.side} px"
        if self.scale > 1 and self.method != "fill":  # what is smooth has no detail to lose
            window += f", so at 1/{self.scale:.2g} of the picture's detail"
        seed = f"seed {self.request.seed}"
        return [self.title, f"{window}; {seed}", f"picture {self.out}", f"mask {self.mask_path}", f"sheet {self.sheet}"]

    def as_dict(self) -> dict[str, Any]:
        return {
            "image": self.request.image, "method": self.method, "share": self.share, "changed": self.changed,
            "change": self.change, "seen": self.seen, "side": self.side, "scale": self.scale,
            "seed": self.request.seed, "out": self.out, "mask": self.mask_path, "sheet": self.sheet,
            "request": self.request.as_document(),
        }  # fmt: skip


def retouched(
    request: Any, before: Image.Image, after: Image.Image, mask: Bool[Tensor, "H W"], side: int, *, paths: list[Path],
    method: str,
) -> Retouched:  # fmt: skip
    """What was changed, with figures; the picture, its mask and the sheet are written already.

    Args:
        request: of the task. before, after: of the same size.
        mask: what was painted anew. side: of the model.
        paths: of the picture, the mask and the sheet. method: as it is named.
    """
    values = [np.asarray(one).astype(np.float32) / 255 for one in (before, after)]
    inside = mask.numpy()
    out, mask_path, sheet = paths
    difference = np.abs(values[1] - values[0])[inside]  # (pixels, 3)
    return Retouched(
        request, after, inside, float(inside.mean()), float((difference.max(1) > 0).mean()), float(difference.mean()),
        window_around(mask, side), side, out, mask_path, sheet, method,
    )  # fmt: skip
