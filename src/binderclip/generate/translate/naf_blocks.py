"""Blocks of the restoration network NAFNet, whose only non-linearity is a product of halves of the channels."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.segment.promptable.network import ChannelNorm

__all__ = ["NAFBlock"]

_EPSILON = 1e-6
"""Of the normalisations, as released."""


class NAFBlock(nn.Module):
    """A gated depthwise convolution with channel attention, then a gated layer of 1 x 1; untrained the identity.

    Args:
        channels: of its input and output.

    Paper: Simple Baselines for Image Restoration (arXiv 2204.04676).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        double = 2 * channels
        self.norm1, self.norm2 = (ChannelNorm(channels, _EPSILON) for _ in range(2))
        self.expand, self.depthwise = nn.Conv2d(channels, double, 1), nn.Conv2d(double, double, 3, 1, 1, groups=double)
        self.attention, self.project = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 1)
        self.feed, self.out = nn.Conv2d(channels, double, 1), nn.Conv2d(channels, channels, 1)
        # Both branches start at 0.
        self.beta, self.gamma = (nn.Parameter(torch.zeros(1, channels, 1, 1)) for _ in range(2))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The map, changed by either branch."""
        gated = _gate(self.depthwise(self.expand(self.norm1(x))))
        gated = gated * self.attention(gated.mean((2, 3), keepdim=True))
        x = x + self.beta * self.project(gated)
        return x + self.gamma * self.out(_gate(self.feed(self.norm2(x))))


def _gate(x: Tensor) -> Tensor:
    """The product of both halves of the channels."""
    one, other = x.chunk(2, 1)
    return one * other
