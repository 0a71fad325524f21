"""Several looks at the same windows: changed copies go through the tower, and what they say is averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.segment.parts.context import Context
from binderclip.settings import check_choice

#: What keeps everything where it is, and what moves it (with the axes that move it back).
COLOURS = ("grey", "blur")
FLIPS = {"flip-vertical": -2, "flip-horizontal": -1}


@dataclass(frozen=True)
class ViewEnsemble:
    """Scores averaged over views: the first kind keeps the geometry, the second is turned back before it counts.

    The mean over the windows as they are and the views of the first kind counts `share`, the mean over the second kind
    the rest. With cosines this is the mean of unit features, not made unit length again: where views disagree, all
    scores shrink. Each view costs a pass.

    Args:
        first: of `grey` and `blur`.
        second: of `flip-vertical` and `flip-horizontal`; none leaves all to the first kind.
        share: of the first kind.
        sigma: of the Gaussian blur, in pixels of a window of `side` pixels.
        kernel: side of the blur's kernel, likewise, rounded to odd.
        side: of the windows that these are meant for: others are blurred as much in proportion. None takes them as they
            are.
        on: `normalised`, grey is mixed of the channels as the tower takes them, as in the released code; or `pixels`.

    Raises:
        UsageError: an unknown view or option; (when called) other parts that place windows in the picture, beside a
            view that turns them.

    Paper: Aydın et al., ITACLIP: Boosting Training-Free Semantic Segmentation with Image, Text, and Architectural
    Enhancements (arXiv 2411.12044).
    """

    first: tuple[str, ...] = COLOURS
    second: tuple[str, ...] = tuple(FLIPS)
    share: float = 0.75
    sigma: float = 5.0
    kernel: int = 11
    side: int | None = 224
    on: Literal["normalised", "pixels"] = "normalised"

    def __post_init__(self) -> None:
        for name, known in (("first", COLOURS), ("second", tuple(FLIPS))):
            views = getattr(self, name)
            if isinstance(views, str) or set(views) - set(known) or len(set(views)) < len(views):
                raise UsageError(f"{name} is a list of {', '.join(known)}, each at most once; not {views!r}")
        check_number("share", self.share, least=0, most=1)
        if self.sigma <= 0 or self.kernel < 1:
            raise UsageError(f"sigma {self.sigma} must be positive, kernel {self.kernel} at least 1")
        check_choice("on", self.on, ("normalised", "pixels"))

    @property
    def passes(self) -> int:
        """How often the tower sees a window."""
        return 1 + len(self.first) + len(self.second)

    def __call__(
        self, context: Context, score: Callable[[Context], Tensor], _features: Any = None
    ) -> Float[Tensor, "B Q gh gw"]:
        """Scores of words."""
        kept = [score(context)]
        for name in self.first:
            key = ("view", name, self.sigma, self.kernel, self.side, self.on)
            kept.append(score(context.again(key, partial(self._changed, name, context))))
        scores = torch.stack(kept).mean(dim=0)
        if not self.second:
            return scores
        turned = []
        for name in self.second:
            axis = FLIPS[name]
            seen = context.again(("view", name), partial(torch.flip, dims=(axis,)), moved=True)
            turned.append(score(seen).flip(axis))
        return self.share * scores + (1 - self.share) * torch.stack(turned).mean(dim=0)

    def _changed(self, name: str, context: Context, pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 3 h w"]:
        if name == "grey":
            preprocess = context.frame.model.preprocess
            if self.on == "pixels":
                return grey(pixels)
            # The tower normalises again.
            mean, std = (pixels.new_tensor(values).view(3, 1, 1) for values in (preprocess.mean, preprocess.std))
            return grey((pixels - mean) / std) * std + mean
        ratio = 1.0 if self.side is None else min(pixels.shape[-2:]) / self.side
        return blurred(pixels, sigma=self.sigma * ratio, kernel=self.kernel * ratio)


def grey(pixels: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 3 h w"]:
    """The luminance in all three channels."""
    from torchvision.transforms.functional import rgb_to_grayscale

    return rgb_to_grayscale(pixels, num_output_channels=3)


def blurred(pixels: Float[Tensor, "B 3 h w"], *, sigma: float, kernel: float) -> Float[Tensor, "B 3 h w"]:
    """Gaussian blur with mirrored borders; `kernel` is rounded to an odd number of at least 3, of what fits."""
    from torchvision.transforms.functional import gaussian_blur

    side = max(3, 2 * round((kernel - 1) / 2) + 1)
    side = min(side, 2 * min(pixels.shape[-2:]) - 1)
    return gaussian_blur(pixels, [side, side], [sigma, sigma])
