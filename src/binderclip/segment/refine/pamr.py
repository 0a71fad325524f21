"""Scores that follow the edges of the picture: pixel-adaptive mask refinement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.parts.context import Frame

#: The eight neighbours at distance 1, (rows, columns).
AROUND = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))

AT_ONCE = 8
"""Scores of so many words are refined together."""


@dataclass(frozen=True)
class PAMR:
    """Every pixel takes the mean of its neighbours, again and again, where a neighbour counts as it looks like it.

    It acts on the scores of words before the rule makes classes of them, in any preset; they come out at the size of
    the picture.

    Args:
        steps: how often.
        dilations: distances of the eight neighbours in pixels of the picture; those of all distances are one set.
        longest: a picture with a longer side is refined at this size, in pixels; None for no bound.

    Raises:
        UsageError: steps, a dilation or longest below 1, or no dilation.

    Papers: Araslanov and Roth, Single-Stage Semantic Segmentation from Image Labels (arXiv 2005.08104); used by ITACLIP
    (arXiv 2411.12044) with these settings.
    """

    #: Scores of words, before the rule.
    before_rule: ClassVar[bool] = True

    steps: int = 10
    dilations: tuple[int, ...] = (8, 16)
    longest: int | None = 1024

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.dilations or min(self.dilations) < 1:
            raise UsageError(f"steps ({self.steps}) and dilations ({self.dilations}) must be at least 1")
        if self.longest is not None and self.longest < 1:
            raise UsageError(f"longest must be at least 1 or None, not {self.longest}")

    def __call__(self, image: Float[Tensor, "1 3 H W"], scores: Float[Tensor, "C h w"], _frame: Frame) -> Tensor:
        """Refined scores (C, H, W)."""
        return pamr(self._guide(image), scores, steps=self.steps, dilations=self.dilations)

    def _guide(self, image: Tensor) -> Tensor:
        size = (image.shape[-2], image.shape[-1])
        if self.longest is None or max(size) <= self.longest:
            return image[0]
        small = [max(1, round(side * self.longest / max(size))) for side in size]
        return F.interpolate(image, size=small, mode="bilinear", antialias=True, align_corners=False)[0]


def pamr(
    guide: Float[Tensor, "K H W"],
    scores: Float[Tensor, "C h w"],
    *,
    steps: int = 10,
    dilations: tuple[int, ...] = (8, 16),
) -> Float[Tensor, "C H W"]:
    """Scores, enlarged bilinearly corner to corner and then smoothed along what the guide shows.

    Args:
        guide: the picture; offset and scale of a channel do not matter.
        scores: on any grid.
        steps: how often.
        dilations: as in `PAMR`.
    """
    size = (guide.shape[-2], guide.shape[-1])
    weights = neighbour_weights(guide.float(), dilations)
    result = torch.empty(len(scores), *size, device=scores.device)
    # A few at a time: the passes then stay in the cache, and memory is that of the result.
    for first in range(0, len(scores), AT_ONCE):
        some = scores[first : first + AT_ONCE].float()
        out = F.interpolate(some[None], size=size, mode="bilinear", align_corners=True)[0]
        for _ in range(steps):
            total = torch.zeros_like(out)
            for weight, moved in zip(weights, neighbours(out, dilations), strict=True):
                total.addcmul_(moved, weight)
            out = total
        result[first : first + AT_ONCE] = out
    return result


def neighbours(x: Float[Tensor, "C H W"], dilations: tuple[int, ...]) -> list[Float[Tensor, "C H W"]]:
    """Eight shifted views a dilation; beyond the border stands the border's value."""
    height, width = x.shape[-2:]
    out = []
    for step in dilations:
        wide = F.pad(x[None], [step] * 4, mode="replicate")[0]
        for row, column in AROUND:
            top, left = step * (1 + row), step * (1 + column)
            out.append(wide[:, top : top + height, left : left + width])
    return out


def neighbour_weights(guide: Float[Tensor, "K H W"], dilations: tuple[int, ...]) -> Float[Tensor, "P H W"]:
    """How much each neighbour counts: softmax of minus the difference, in tenths of the local standard deviation.

    The deviation is that of all neighbours with the pixel itself (once a dilation), each channel for itself; the
    differences are averaged over channels.
    """
    around = torch.stack(neighbours(guide, dilations))
    with_self = torch.cat([around, guide.expand(len(dilations), *guide.shape)])
    deviation = with_self.std(dim=0)
    difference = (around - guide).abs() / (1e-8 + 0.1 * deviation)
    return (-difference.mean(dim=1)).softmax(dim=0)
