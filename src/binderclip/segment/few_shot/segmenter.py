"""Segmentation of pictures by examples: one or several pictures with their masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from binderclip.data.images import open_image
from binderclip.errors import DataError, UsageError
from binderclip.models.image_text.preprocess import ImageLike
from binderclip.segment.few_shot.levels import CorrelationBackbone, SupportFeatures, stack_levels
from binderclip.segment.few_shot.matchers import Matcher
from binderclip.segment.output.result import Segmentation

__all__ = ["FewShotSegmenter", "vote"]


class FewShotSegmenter:
    """Finds in pictures what examples show: support pictures with the mask of a class that nothing was trained on.

    Args:
        backbone: a frozen network as a pyramid.
        matcher: a `HypercorrelationNet` that was trained on such a pyramid (`train_few_shot`), or a rule without
            training (`PriorMask`, `PrototypeMatch`).

    Examples:
        >>> from PIL import Image
        >>> from binderclip.models import load_vision
        >>> from binderclip.segment import PrototypeMatch
        >>> picture, mask = Image.new("RGB", (64, 48), "white"), torch.zeros(48, 64, dtype=torch.bool)
        >>> picture.paste("red", (10, 10, 40, 40)); mask[10:40, 10:40] = True
        >>> segmenter = FewShotSegmenter(CorrelationBackbone(load_vision("lite0")), PrototypeMatch())
        >>> segmenter(picture, segmenter.examples([picture], [mask]), label="square").classes
        ('background', 'square')

    Paper: MSI: Maximize Support-Set Information for Few-Shot Segmentation (ICCV 2023, arXiv 2212.04673).
    """

    def __init__(self, backbone: CorrelationBackbone, matcher: Matcher) -> None:
        self.backbone, self.matcher = backbone, matcher
        if isinstance(matcher, nn.Module):
            matcher.to(backbone.model.device)

    def examples(self, pictures: Sequence[ImageLike], masks: Sequence[Tensor | np.ndarray]) -> SupportFeatures:
        """What is known of K examples; make it once for all pictures.

        Args:
            pictures: paths, PIL images or float tensors (3, H, W) in [0, 1].
            masks: for each its (H, W) mask, a tensor or array; what is not 0 is the target.

        Raises:
            UsageError: no example, or not as many masks as pictures.
            DataError: a mask of another size than its picture, an empty mask, or a picture that cannot be read.
        """
        if not pictures or len(pictures) != len(masks):
            raise UsageError(f"give as many masks as pictures, at least one, not {len(masks)} and {len(pictures)}")
        pixels, small = [], []
        for place, (picture, mask) in enumerate(zip(pictures, masks, strict=True), 1):
            opened = picture if isinstance(picture, Tensor) else open_image(picture)  # type: ignore[arg-type]
            size = tuple(opened.shape[-2:]) if isinstance(opened, Tensor) else opened.size[::-1]
            drawn = torch.as_tensor(mask)
            if tuple(drawn.shape) != size:
                raise DataError(
                    f"the mask of example {place} is {_sides(drawn.shape)} pixels, its picture {_sides(size)}"
                )
            pixels.append(self.backbone.pixels(opened))
            small.append(small_mask(drawn != 0, self.backbone.size))
        return self.backbone.support(torch.cat(pixels), torch.stack(small))

    @torch.no_grad()
    def logits(self, image: ImageLike, examples: SupportFeatures) -> Float[Tensor, "K 2 h w"]:
        """Logits of background and target by each example, on a grid of the squashed picture."""
        return self.pixel_logits(self.backbone.pixels(image), examples)

    @torch.no_grad()
    def pixel_logits(self, pixels: Float[Tensor, "1 3 S S"], examples: SupportFeatures) -> Float[Tensor, "K 2 h w"]:
        """`logits` of a picture that is normalised already."""
        if isinstance(self.matcher, nn.Module):
            self.matcher.eval()
        return self.matcher(stack_levels([self.backbone(pixels)] * len(examples)), examples)

    def __call__(self, image: ImageLike, examples: SupportFeatures, *, label: str = "object") -> Segmentation:
        """The target in a picture, as a label map of `background` and `label`.

        Each example gives a mask; `vote` joins several. `scores` are their mean logits.

        Args:
            image: a path, a PIL image or a float tensor (3, H, W) in [0, 1].
            examples: of `examples`.
            label: name of the target.

        Raises:
            DataError: a picture that cannot be read. UsageError: `label` is "background".
        """
        if label == "background":
            raise UsageError("the target cannot be called background")
        picture = open_image(image).convert("RGB")  # type: ignore[arg-type]
        logits = self.logits(picture, examples)
        masks = full_logits(logits, picture.size[::-1]).argmax(1) == 1
        labels = vote(masks).to(torch.int32).cpu()
        return Segmentation(("background", label), labels, logits.mean(0).cpu(), picture, background=True)


def full_logits(logits: Float[Tensor, "K 2 h w"], size: tuple[int, int]) -> Float[Tensor, "K 2 H W"]:
    """Logits at the size of a picture."""
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def vote(masks: Bool[Tensor, "K H W"]) -> Bool[Tensor, "H W"]:
    """Pixels that got at least half as many votes as the pixel with most; of one mask that mask.

    Paper: Hypercorrelation Squeeze for Few-Shot Segmentation (ICCV 2021, arXiv 2104.01538).
    """
    votes = masks.sum(0)
    return votes / votes.max().clamp(min=1) >= 0.5


def small_mask(mask: Bool[Tensor, "H W"], side: int) -> Float[Tensor, "S S"]:
    """A mask squashed to a square: cells that it covers by half, or, where there is none, by the most of all."""
    covered = F.interpolate(mask[None, None].float(), (side, side), mode="bilinear", antialias=True)[0, 0]
    most = float(covered.max())
    return (covered >= min(0.5, most)).float() * float(most > 0)


def _sides(size: Sequence[int]) -> str:
    return " x ".join(str(side) for side in reversed(size))
