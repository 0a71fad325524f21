"""Input diversity: images resized and padded at random before their gradient is taken."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_fields, check_number

__all__ = ["InputDiversity"]


@dataclass(frozen=True)
class InputDiversity:
    """With some probability, a batch resized to a random smaller size and padded by zeros at random to the larger one.

    An attack whose gradients are taken so fits its network less closely, and carries over to others more often. One
    draw is for the whole batch, as in the authors' code.

    Args:
        probability: that the batch is changed; else it is returned as it is.
        resize_rate: below 1, sizes from this part of the image's up to the image's, which the result has; above 1,
            sizes from the image's up to this multiple of it, which the result has (the paper: 330 / 299).

    Call it with images (B, C, H, W) and a generator. Resizing is bilinear, as in torchattacks; the authors' code takes
    the nearest pixel.

    Raises:
        UsageError: a probability outside [0, 1], a rate that is not above 0 or is 1; when called, images of other
            shapes, or too small to be resized so.

    Paper: Improving Transferability of Adversarial Examples with Input Diversity (arXiv 1803.06978).
    """

    probability: float = 0.5
    resize_rate: float = 0.9

    def __post_init__(self) -> None:
        check_fields(self)
        check_number("probability", self.probability, least=0, most=1)
        if self.resize_rate <= 0 or self.resize_rate == 1:
            raise UsageError(f"resize_rate must be above 0 and not 1, got {self.resize_rate}")

    def draw(self, size: tuple[int, int], generator: torch.Generator) -> tuple[int, int, int, int] | None:
        """Height and width of the resized images and the rows above and columns left of them; None: unchanged."""
        if float(torch.rand((), generator=generator)) >= self.probability:
            return None
        # The larger side is drawn, the other one follows: the shape of the image stays.
        longest = max(size)
        low, high = sorted((longest, int(longest * self.resize_rate)))
        if low < 1 or low == high:
            raise UsageError(f"images of {size[0]} x {size[1]} pixels cannot be resized by {self.resize_rate}")
        side = int(torch.randint(low, high, (), generator=generator))
        height, width = (max(1, round(each * side / longest)) for each in size)
        full = self.full(size)
        top, left = (
            int(torch.randint(0, max(most - inner, 1), (), generator=generator))
            for most, inner in zip(full, (height, width), strict=True)
        )
        return height, width, top, left

    def full(self, size: tuple[int, int]) -> tuple[int, int]:
        """Height and width of the padded images."""
        rate = max(self.resize_rate, 1.0)
        return int(size[0] * rate), int(size[1] * rate)

    def __call__(
        self, images: Float[Tensor, "B C H W"], generator: torch.Generator
    ) -> Float[Tensor, "B C H W"] | Float[Tensor, "B C h w"]:
        if images.ndim != 4:
            raise UsageError(f"input diversity takes images (B, C, H, W), not {tuple(images.shape)}")
        size = (images.shape[2], images.shape[3])
        drawn = self.draw(size, generator)
        if drawn is None:
            return images
        height, width, top, left = drawn
        small = F.interpolate(images, (height, width), mode="bilinear", align_corners=False)
        tall, wide = self.full(size)
        return F.pad(small, (left, wide - width - left, top, tall - height - top))
