"""At which size and in which pieces the model sees an image; scores come back at the size it was seen at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.data.windows import Windows as Layout
from binderclip.data.windows import fold, unfold
from binderclip.errors import UsageError

ScoreMap = Callable[[Tensor], Tensor]


class Resolution(Protocol):
    """Runs `score` on an image in some way and returns scores in pixels of the resized image."""

    def __call__(
        self, image: Float[Tensor, "1 3 H W"], score: ScoreMap, *, patch: int, native: int
    ) -> Float[Tensor, "1 Q h w"]: ...


def fit_size(size: tuple[int, int], shorter: int, patch: int, longest: int) -> tuple[int, int]:
    """(h, w) near an image's aspect with the given shorter side, both multiples of `patch`.

    Args:
        size: (h, w) of the image.
        shorter: wanted shorter side in pixels.
        patch: side of a patch.
        longest: the longer side is not let above this, the aspect kept.
    """
    ratio = min(shorter / min(size), longest / max(size))
    return tuple(max(patch, round(side * ratio / patch) * patch) for side in size)  # type: ignore[return-value]


def resized(image: Float[Tensor, "1 3 H W"], size: tuple[int, int]) -> Float[Tensor, "1 3 h w"]:
    """Antialiased bicubic resize, kept in [0, 1]."""
    if tuple(image.shape[-2:]) == tuple(size):
        return image
    return F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


def enlarged(scores: Float[Tensor, "B Q gh gw"], size: tuple[int, int]) -> Float[Tensor, "B Q h w"]:
    """Scores of patches -> pixels, bilinearly."""
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


@dataclass(frozen=True)
class Whole:
    """The whole image at once, its aspect kept.

    Args:
        size: shorter side in pixels; None for twice the model's own.
        longest: bound of the longer side, as a multiple of the shorter one, so that a panorama does not explode.
    """

    size: int | None = None
    longest: float = 4.0

    def __call__(self, image: Tensor, score: ScoreMap, *, patch: int, native: int) -> Tensor:
        """Scores (1, Q, h, w) in pixels of the resized image."""
        shorter = 2 * native if self.size is None else self.size
        if shorter < patch:
            raise UsageError(f"size {shorter} is below one patch of {patch} pixels")
        pixels = resized(image, fit_size(_size(image), shorter, patch, int(self.longest * shorter)))
        return enlarged(score(pixels), _size(pixels))


@dataclass(frozen=True)
class Windows:
    """Overlapping windows of the model's own size over the resized image; their scores are averaged.

    Args:
        window: side of a window in pixels; None for the model's own.
        stride: step between windows; None for half a window.
        size: shorter side of the resized image; None for twice the model's own.
        batch: windows that go through the model at once.
        longest: as in `Whole`.
    """

    window: int | None = None
    stride: int | None = None
    size: int | None = None
    batch: int = 16
    longest: float = 4.0

    def __call__(self, image: Tensor, score: ScoreMap, *, patch: int, native: int) -> Tensor:
        """Scores (1, Q, h, w) in pixels of the resized image."""
        window = native if self.window is None else self.window
        if window % patch:
            raise UsageError(f"window {window} is not a multiple of the patch, {patch} pixels")
        shorter = max(window, 2 * native if self.size is None else self.size)
        pixels = resized(image, fit_size(_size(image), shorter, patch, int(self.longest * shorter)))
        layout = Layout.over(_size(pixels), window, self.stride or max(1, window // 2))
        pieces = unfold(pixels, layout)[0]
        scores = [enlarged(score(part), (window, window)) for part in pieces.split(self.batch)]
        return fold(torch.cat(scores)[None], layout)


def _size(image: Tensor) -> tuple[int, int]:
    return image.shape[-2], image.shape[-1]
