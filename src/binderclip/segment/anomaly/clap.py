"""Contrastive language prompting: what speaks for damage, less what speaks for the sound, hidden from a restorer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.segment.maps import unit_range
from binderclip.settings import check_choice

#: (images (B, 3, H, W) in [0, 1], texts) -> maps (B, h, w), of any scale
Attention: TypeAlias = "Callable[[Tensor, Sequence[str]], Tensor]"

QUARTER = 0.674
"""Standard deviations above the mean that leave a quarter of a normal distribution."""


class ContrastiveLanguagePrompting:
    """CLAP: the attention of words for damage less the attention of words for the sound.

    A model's attention to damage also lights up what is always there; the attention to sound words does so too, and
    is taken off. What is left above the mean by 0.674 standard deviations is suspected.

    Args:
        attention: (images, texts) -> maps, such as `InformationBottleneckMap`; each map is brought to [0, 1].
        positive: words for damage.
        negative: words for the sound; none leaves the positive map alone (positive language prompting).
        join: `"one"` joins the words to one prompt by commas, `"mean"` gives the attention all words.
        deviations: of the threshold.

    Raises:
        UsageError: no positive word, words on both sides, or an unknown `join`.

    Examples:
        >>> attention = lambda images, texts: images[:, 0] * len(texts[0])
        >>> clap = ContrastiveLanguagePrompting(attention, ["crack", "hole"], ["flawless"])
        >>> tuple(clap(torch.rand(2, 3, 8, 8)).shape)
        (2, 8, 8)

    Paper: Contrastive Language Prompting to Ease False Positives in Medical Anomaly Detection (arXiv 2411.07546).
    """

    def __init__(
        self,
        attention: Attention,
        positive: Sequence[str],
        negative: Sequence[str] = (),
        *,
        join: Literal["one", "mean"] = "one",
        deviations: float = QUARTER,
    ) -> None:
        for name, words in (("positive", positive), ("negative", negative)):
            if isinstance(words, str) or not all(isinstance(w, str) and w.strip() for w in words):
                raise UsageError(f"{name} must be a list of words, not {words!r}")
        if not positive:
            raise UsageError("positive is empty: give at least one word for damage")
        check_choice("join", join, ("one", "mean"))
        self.attention, self.join, self.deviations = attention, join, deviations
        self.positive, self.negative = tuple(positive), tuple(negative)

    def __call__(self, images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B h w"]:
        """The contrasted maps, in [-1, 1], on the attention's own grid."""
        maps = unit_range(self.attention(images, self._prompts(self.positive)))
        if self.negative:
            maps = maps - unit_range(self.attention(images, self._prompts(self.negative)))
        return maps

    def regions(self, images: Float[Tensor, "B 3 H W"]) -> Bool[Tensor, "B H W"]:
        """The suspected pixels of images."""
        return suspected(self(images), (images.shape[-2], images.shape[-1]), deviations=self.deviations)

    def _prompts(self, words: Sequence[str]) -> list[str]:
        return [", ".join(words)] if self.join == "one" else list(words)


def suspected(
    maps: Float[Tensor, "B h w"], size: tuple[int, int], *, deviations: float = QUARTER
) -> Bool[Tensor, "B H W"]:
    """Pixels above the mean of their own map by so many standard deviations, after bilinear enlargement to (h, w).

    The rule is relative: of a map without structure a quarter is suspected too. A constant map has none.
    """
    drawn = F.interpolate(maps[:, None].float(), size=size, mode="bilinear", align_corners=False)[:, 0]
    mean = drawn.mean(dim=(1, 2), keepdim=True)
    spread = drawn.std(dim=(1, 2), keepdim=True, correction=0)
    # Rounding must not make an anomaly of a constant.
    return (drawn > mean + deviations * spread) & (spread > 1e-6)


def mosaic(images: Float[Tensor, "B 3 H W"], regions: Bool[Tensor, "B H W"], block: int) -> Float[Tensor, "B 3 H W"]:
    """Images whose pixels inside the regions are means over blocks: a hint of colour, no pattern.

    Args:
        images: what is hidden in.
        regions: what is hidden.
        block: side of the blocks in pixels.

    Raises:
        UsageError: sides that are no multiple of the block, or regions of another size.
    """
    height, width = images.shape[-2:]
    if block < 1 or height % block or width % block:
        raise UsageError(f"images of {height} x {width} pixels do not split into blocks of {block}")
    if tuple(regions.shape) != (len(images), height, width):
        raise UsageError(f"regions {tuple(regions.shape)} do not fit images {tuple(images.shape)}")
    coarse = F.interpolate(F.avg_pool2d(images, block), scale_factor=block, mode="nearest")
    return torch.where(regions[:, None], coarse, images)


def random_regions(
    count: int, size: tuple[int, int], generator: torch.Generator, *, cells: int = 8, deviations: float = QUARTER
) -> Bool[Tensor, "B H W"]:
    """Suspected pixels of smooth noise: regions as large as those of attention maps, anywhere."""
    return suspected(torch.randn(count, cells, cells, generator=generator), size, deviations=deviations)


def as_pixels(images: Any, side: int) -> Float[Tensor, "B 3 S S"]:
    """Any images as a float batch in [0, 1], squashed to a square.

    Raises:
        UsageError: no image.
        DataError: one that cannot be read.
    """
    from binderclip.data import open_image, to_tensor
    from binderclip.models.image_text.preprocess import as_list, float_batch

    batch = float_batch(images)
    items: Any = list(batch) if batch is not None else [to_tensor(open_image(i)) for i in as_list(images)]
    if not items:
        raise UsageError("images is empty: give at least one")
    resized = [
        item
        if tuple(item.shape[-2:]) == (side, side)
        else F.interpolate(item[None].float(), size=(side, side), mode="bilinear", antialias=True)[0]
        for item in items
    ]
    return torch.stack(resized).clamp(0, 1)
