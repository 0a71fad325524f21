"""Small things taken out of a segmentation: classes that cover next to nothing, and gaps a pixel wide."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.segment.parts.context import Frame


@dataclass(frozen=True)
class DropSmall:
    """Classes that win next to no pixels win none: a refinement of class logits.

    Args:
        share: a class whose area is not above this share of the area of all classes but the background is taken out.
        background: whether class 0 is the background, which stays and does not count; None for whether the segmenter
            has words for one.

    Raises:
        UsageError: share out of [0, 1].

    Paper: ITACLIP (arXiv 2411.12044), for PASCAL VOC.
    """

    share: float = 0.1
    background: bool | None = None

    def __post_init__(self) -> None:
        check_number("share", self.share, least=0, most=1)

    def __call__(self, _image: Tensor, logits: Float[Tensor, "C h w"], frame: Frame) -> Float[Tensor, "C h w"]:
        """The logits, those of small classes at the bottom."""
        first = int(frame.background if self.background is None else self.background)
        area = torch.bincount(logits.argmax(dim=0).flatten(), minlength=len(logits))
        small = area <= self.share * area[first:].sum()
        small[:first] = False
        floor = min(float(logits.min()), math.log(1e-12))
        return torch.where(small[:, None, None], floor, logits)


@dataclass(frozen=True)
class Closing:
    """Morphological closing of the label map: gaps that the window does not fit into are filled.

    It compares label numbers, as the released code does: where two classes meet in a gap, the larger number fills it.

    Args:
        size: side of the square window in pixels, odd.

    Raises:
        UsageError: an even size, or one below 1.

    Paper: ITACLIP (arXiv 2411.12044).
    """

    size: int = 3

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % 2 == 0:
            raise UsageError(f"size must be odd and at least 1, not {self.size}")

    def __call__(self, labels: Int[Tensor, "H W"], _logits: Tensor, _frame: Frame) -> Int[Tensor, "H W"]:
        """The label map; -1, unsegmented, is below all classes."""
        # Pixels beyond the border do not count, neither for the maximum nor for the minimum.
        grown = F.max_pool2d(labels[None, None].double(), self.size, stride=1, padding=self.size // 2)
        return -F.max_pool2d(-grown, self.size, stride=1, padding=self.size // 2)[0, 0].to(labels.dtype)
