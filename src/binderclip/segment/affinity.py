"""Affinity of patches from outside the tower's last attention: features of another image model, and their cosines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.models import correlation
from binderclip.models.towers import Record
from binderclip.segment.context import Context, resample, to_map
from binderclip.segment.resolution import resized

#: pixels (B, 3, h, w) in [0, 1] -> features (B, C, gh, gw) on a grid of their own; no need for unit length
Features: TypeAlias = "Callable[[Tensor], Tensor]"

OWN = "own"
"""Name of the source that needs no other model: the tower's normalised tokens as they enter the last block."""


@dataclass(frozen=True)
class External:
    """Dense features that say which patches belong together, for the windows that are segmented.

    Args:
        source: a callable from pixels to features; or the name of a vision tower (`models.load_vision`), whose last
            patch tokens are used; or `own` for the tokens of the segmenter's own tower before its last block.
        per: `window` runs the source on every window; `image` runs it once on the picture at its own size and cuts the
            windows out of its features.
        size: shorter side in pixels at which a named tower sees what it is given; None as it comes.

    Raises:
        UsageError: an unknown `per`, or a source that gives no (B, C, h, w).
    """

    source: str | Features = OWN
    per: Literal["window", "image"] = "window"
    size: int | None = None

    def __post_init__(self) -> None:
        if self.per not in ("window", "image"):
            raise UsageError(f"per must be window or image, not {self.per!r}")

    @property
    def record(self) -> Record:
        """Nothing of earlier blocks."""
        return Record()

    def __call__(self, context: Context) -> Float[Tensor, "B C gh gw"]:
        """Unit features of every window; made once for all segmenters of one call."""
        key = ("external", self)
        if key not in context.notes:
            context.notes[key] = F.normalize(self._raw(context).float(), dim=1)
        return context.notes[key]

    def _raw(self, context: Context) -> Tensor:
        if self.source == OWN:
            return to_map(context.block.norm1(context.tokens.x)[:, context.prefix :], context.grid)
        if self.per == "window":
            return self._features(context.pixels)
        frame = context.frame
        whole = frame.once(("external", self), lambda: self._features(frame.image))
        patch = context.pixels.shape[-1] // context.grid[1]
        grid = tuple(side // patch for side in frame.pixels.shape[-2:])
        # On the tower's grid of the whole picture, so that every window is whole cells of it.
        spread = resample(whole, (grid[0], grid[1]))[0]
        (height, width), corners = context.grid, [(y // patch, x // patch) for y, x in context.places]
        return torch.stack([spread[:, y : y + height, x : x + width] for y, x in corners])

    def _features(self, pixels: Float[Tensor, "B 3 h w"]) -> Tensor:
        found = _vision(self.source, self.size)(pixels) if isinstance(self.source, str) else self.source(pixels)
        if found.ndim != 4 or len(found) != len(pixels):
            raise UsageError(
                f"features of {len(pixels)} pictures must be of shape (B, C, h, w), not {tuple(found.shape)}"
            )
        return found.to(pixels.device)


def cosines(features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B N N"]:
    """Cosine of every patch with every patch, N = h * w."""
    return correlation(features.flatten(2).mT)


@lru_cache(maxsize=4)
def _vision(name: str, size: int | None) -> Features:
    """The last patch tokens of a vision tower, at the multiples of its patch nearest to what it is given."""
    from binderclip import models

    model: Any = models.load_vision(name)  # type: ignore[attr-defined]
    patch = model.image_tower.patch

    def features(pixels: Tensor) -> Tensor:
        ratio = 1.0 if size is None else size / min(pixels.shape[-2:])
        side = [max(patch, round(length * ratio / patch) * patch) for length in pixels.shape[-2:]]
        at = (side[0], side[1])
        return model.to(pixels.device).patch_features(resized(pixels, at), size=at)

    return features
