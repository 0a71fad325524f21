"""Paints masked parts of pictures: the smoothest continuation of what is around them, and its correction."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.generate.biharmonic import biharmonic_fill
from binderclip.generate.translate.gated_completion import GatedConv2d
from binderclip.numeric import check_whole

__all__ = ["CorrectedFill"]

_RATES = 1, 2, 4
"""Dilations at half the size."""


class CorrectedFill(nn.Module):
    """Paints the masked part of a picture: the biharmonic fill, and what gated convolutions add to it.

    Untrained it is the fill. It takes the place of `CompletionNet` in an `OcclusionRemover` where training is short: a
    small completion network that paints from nothing stays below the fill of the same mask (the study of p116).

    Args:
        width: channels at full size, in [1, 4096].

    Raises:
        UsageError: a width out of range.

    After: Deep Generative Adversarial Network for Occlusion Removal from a Single Image (arXiv 2409.13242).

    Examples:
        >>> import torch
        >>> net = CorrectedFill(4)
        >>> picture, mask = torch.rand(1, 3, 18, 21), torch.ones(1, 1, 18, 21)
        >>> torch.equal(net(picture, mask), net(torch.rand(1, 3, 18, 21), mask))
        True
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        check_whole("width", width, least=1)
        if width > 4096:
            raise UsageError(f"width must be at most 4096, got {width}")
        self.width = width
        self.first, self.down = GatedConv2d(4, width), GatedConv2d(width, 2 * width, stride=2)
        self.middle = nn.ModuleList(GatedConv2d(2 * width, 2 * width, dilation=rate) for rate in _RATES)
        self.up, self.last = GatedConv2d(3 * width, width), nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, images: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
        """A picture in [0, 1], as given outside of the mask up to the correction, painted inside.

        Args:
            images: in [0, 1], of any size.
            mask: 1 where to paint; what is under it counts nowhere.

        Raises:
            UsageError: a picture and a mask that do not match.
        """
        return self.correct(biharmonic_fill(images, mask).clamp(0, 1), mask)

    def correct(self, filled: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
        """The same from a picture whose masked part is filled already.

        Args:
            filled: in [0, 1].
            mask: 1 where it was filled.
        """
        height, width = filled.shape[-2:]
        x = torch.cat([filled - 0.5, mask], 1)
        fine = self.first(F.pad(x, (0, width % 2, 0, height % 2), "replicate"))
        coarse = self.down(fine)
        for layer in self.middle:
            coarse = coarse + layer(coarse)
        up = F.interpolate(coarse, scale_factor=2, mode="nearest")
        correction = self.last(self.up(torch.cat([up, fine], 1)))[..., :height, :width]
        return (filled + correction).clamp(0, 1)
