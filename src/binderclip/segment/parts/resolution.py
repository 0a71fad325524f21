"""At which size and in which pieces the model sees an image, and where the pieces are put together again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.data.windows import WindowGrid as Layout
from binderclip.errors import UsageError
from binderclip.settings import check_choice

#: Bounds of what a tower is shown, above which nothing comes back in any time: the longer side in pixels, patches of a
#: window, and windows of a picture.
MOST_SIDE, MOST_PATCHES, MOST_WINDOWS = 16_384, 65_536, 100_000


@runtime_checkable
class Resolution(Protocol):
    """How an image is resized and cut; equal layouts of several segmenters share their tower passes."""

    @property
    def merge(self) -> Literal["logits", "tokens"]:
        """Whether windows are put together as scores, or as tokens before the final norm."""
        ...

    def layout(self, size: tuple[int, int], *, patch: int, native: int) -> Layout:
        """Windows over the resized image, for an image of `size` (h, w)."""
        ...


def fit_size(size: tuple[int, int], shorter: int, patch: int, longest: int) -> tuple[int, int]:
    """(h, w) near an image's aspect with the given shorter side, both multiples of `patch`.

    Args:
        size: (h, w) of the image.
        shorter: wanted shorter side in pixels.
        patch: side of a patch.
        longest: the longer side is not let above this, the aspect kept.

    Raises:
        UsageError: a side above `MOST_SIDE`.
    """
    # The first alone already says no; numbers that no float holds must not be divided.
    if shorter <= MOST_SIDE:
        ratio = min(shorter / min(size), longest / max(size))
        height, width = (max(patch, round(side * ratio / patch) * patch) for side in size)
        if max(height, width) <= MOST_SIDE:
            return height, width
    raise UsageError(
        f"a shorter side of {str(shorter)[:12]} pixels is too large for a picture of {size[0]} x {size[1]}: "
        f"the model is shown at most {MOST_SIDE} pixels a side"
    )


def bounded(layout: Layout, patch: int) -> Layout:
    """The layout, if it is not beyond all bounds.

    Raises:
        UsageError: more than `MOST_PATCHES` in a window.
    """
    patches = (layout.window[0] // patch) * (layout.window[1] // patch)
    if patches > MOST_PATCHES:
        raise UsageError(
            f"a window of {layout.window[0]} x {layout.window[1]} pixels has {patches} patches of {patch}; at most "
            f"{MOST_PATCHES}: give a smaller size, or windows"
        )
    return layout


def resized(image: Float[Tensor, "B 3 H W"], size: tuple[int, int]) -> Float[Tensor, "B 3 h w"]:
    """Antialiased bicubic resize, kept in [0, 1]."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def enlarged(scores: Float[Tensor, "B Q gh gw"], size: tuple[int, int]) -> Float[Tensor, "B Q h w"]:
    """Scores of patches -> pixels, bilinearly."""
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


def side_of(value: int | float | None, whole: int, default: float, name: str) -> int:
    """A length in pixels: an integer as it is, a float as a multiple of `whole`, None as `default` times it.

    Raises:
        UsageError: a multiple outside (0, 16], which is meant for pixels; more pixels than `MOST_SIDE`.
    """
    if isinstance(value, Integral):
        if value > MOST_SIDE:
            raise UsageError(f"{name} {str(value)[:12]}: the model is shown at most {MOST_SIDE} pixels a side")
        return int(value)
    ratio = default if value is None else value
    if not 0 < ratio <= 16:
        raise UsageError(f"{name} {ratio}: pixels are an integer, a multiple of the model's own side is in (0, 16]")
    return max(1, round(ratio * whole))


def _check_longest(longest: float) -> None:
    if not 1 <= longest <= MOST_SIDE:
        raise UsageError(f"longest must be a multiple of the shorter side, from 1, not {longest}")


@dataclass(frozen=True)
class Whole:
    """The whole image at once, its aspect kept.

    Args:
        size: shorter side in pixels, or as a multiple (a float, such as 1.5) of the model's own; None for twice that.
        longest: bound of the longer side, as a multiple of the shorter one, so that a panorama does not explode.
    """

    size: int | float | None = None
    longest: float = 4.0
    merge: Literal["logits", "tokens"] = "logits"

    def __post_init__(self) -> None:
        _check_longest(self.longest)

    def layout(self, size: tuple[int, int], *, patch: int, native: int) -> Layout:
        """One window over everything.

        Raises:
            UsageError: a size below one patch, or beyond the bounds of `fit_size` and `bounded`.
        """
        shorter = side_of(self.size, native, 2.0, "size")
        if shorter < patch:
            raise UsageError(f"size {shorter} is below one patch of {patch} pixels")
        full = fit_size(size, shorter, patch, int(self.longest * shorter))
        return bounded(Layout.over(full, full, full), patch)


@dataclass(frozen=True)
class Squash:
    """The whole image at once, resized to a square: its aspect is lost.

    Args:
        size: side in pixels, or as a multiple (a float) of the model's own; None for the model's own.
    """

    size: int | float | None = None
    merge: Literal["logits", "tokens"] = "logits"

    def layout(self, size: tuple[int, int], *, patch: int, native: int) -> Layout:
        """One window over everything.

        Raises:
            UsageError: a side below one patch, or beyond the bounds of `side_of` and `bounded`.
        """
        side = side_of(self.size, native, 1.0, "size")
        if side < patch:
            raise UsageError(f"size {side} is below one patch of {patch} pixels")
        square = (max(patch, round(side / patch) * patch),) * 2
        return bounded(Layout.over(square, square, square), patch)


@dataclass(frozen=True)
class Windows:
    """Overlapping windows of the model's own size over the resized image, averaged where they overlap.

    Args:
        window: side of a window in pixels; None for the model's own.
        stride: step between windows in pixels, or as a share (a float) of the window; None for half a window. Where
            tokens are merged it is rounded to whole patches.
        size: shorter side of the resized image, as in `Whole`.
        merge: `logits` (segment each window, then splice the scores) or `tokens` (splice the tokens, then segment).
        longest: as in `Whole`.
    """

    window: int | None = None
    stride: int | float | None = None
    size: int | float | None = None
    merge: Literal["logits", "tokens"] = "logits"
    longest: float = 4.0

    def __post_init__(self) -> None:
        check_choice("merge", self.merge, ("logits", "tokens"))
        _check_longest(self.longest)

    def layout(self, size: tuple[int, int], *, patch: int, native: int) -> Layout:
        """The windows.

        Raises:
            UsageError: a window that is no multiple of the patch, more than `MOST_WINDOWS`, or a size beyond the bounds
                of `fit_size` and `bounded`.
        """
        window = native if self.window is None else self.window
        if window % patch:
            raise UsageError(f"window {window} is not a multiple of the patch, {patch} pixels")
        shorter = max(window, side_of(self.size, native, 2.0, "size"))
        full = fit_size(size, shorter, patch, int(self.longest * shorter))
        stride = side_of(self.stride, window, 0.5, "stride")
        if self.merge == "tokens":
            stride = max(patch, stride // patch * patch)
        count = math.prod(max(0, side - window) // max(1, stride) + 1 for side in full)
        if count > MOST_WINDOWS:
            raise UsageError(
                f"windows of {window} pixels every {stride} are {count} over {full[0]} x {full[1]} pixels; at most "
                f"{MOST_WINDOWS}: give a larger stride or a smaller size"
            )
        return bounded(Layout.over(full, window, stride), patch)


class Splice:
    """Adds windows up where they lie, on their own grid, and divides by how many cover a cell."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.total: Tensor | None = None
        self.cover = torch.zeros(())
        self.cell = 1

    def add(self, maps: Float[Tensor, "B C h w"], boxes: Sequence[tuple[int, int, int, int]]) -> None:
        """Some windows."""
        if len(self.layout.boxes) == 1:  # nothing overlaps, nothing to add up
            self.total = maps
            return
        if self.total is None:
            self.cell = self.layout.window[0] // maps.shape[-2]
            coarse = self.layout.scaled(self.cell)
            self.total = maps.new_zeros(1, maps.shape[1], *coarse.size)
            self.cover = maps.new_zeros(coarse.size)
        for values, box in zip(maps, boxes, strict=True):
            x0, y0, x1, y1 = (v // self.cell for v in box)
            self.total[0, :, y0:y1, x0:x1] += values
            self.cover[y0:y1, x0:x1] += 1

    def result(self) -> Float[Tensor, "1 C H W"]:
        """The mean."""
        assert self.total is not None
        return self.total if len(self.layout.boxes) == 1 else self.total / self.cover
