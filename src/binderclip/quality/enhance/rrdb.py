"""The generator of ESRGAN: residual-in-residual dense blocks and nearest-neighbour upsampling."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError

RESIDUAL = 0.2
"""Factor on every residual."""


class _Dense(nn.Module):
    """Five convolutions, each of all maps before it."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        widths = [features + number * growth for number in range(5)]
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(width, growth if number < 4 else features, 3, padding=1) for number, width in enumerate(widths)]
        )

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        maps = [x]
        for number, layer in enumerate(self.convolutions):
            y = layer(torch.cat(maps, 1))
            maps.append(F.leaky_relu(y, 0.2) if number < 4 else y)
        return x + RESIDUAL * maps[-1]


class _Block(nn.Module):
    """Three dense blocks around which a residual runs."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.dense = nn.Sequential(*[_Dense(features, growth) for _ in range(3)])

    def forward(self, x: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        return x + RESIDUAL * self.dense(x)


class RRDBNet(nn.Module):
    """Enlarge pictures two or four times.

    Args:
        scale: 2 or 4; every doubling is nearest-neighbour upsampling and a convolution.
        blocks: residual-in-residual dense blocks. Default the paper's 23.
        features: channels of the maps.
        growth: channels that each dense convolution adds.

    Raises:
        UsageError: another scale.

    Paper: ESRGAN (arXiv 1809.00219).

    Examples:
        >>> RRDBNet(2, blocks=1, features=8, growth=4)(torch.rand(1, 3, 16, 20)).shape
        torch.Size([1, 3, 32, 40])
    """

    def __init__(self, scale: int = 4, *, blocks: int = 23, features: int = 64, growth: int = 32) -> None:
        super().__init__()
        if scale not in (2, 4):
            raise UsageError(f"scale must be 2 or 4, not {scale}")
        self.scale = scale
        self.first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*[_Block(features, growth) for _ in range(blocks)])
        self.behind = nn.Conv2d(features, features, 3, padding=1)
        self.up = nn.ModuleList([nn.Conv2d(features, features, 3, padding=1) for _ in range(scale // 2)])
        self.high = nn.Conv2d(features, features, 3, padding=1)
        self.last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, images: Float[Tensor, "B 3 h w"]) -> Float[Tensor, "B 3 H W"]:
        """Enlarged pictures; they may leave [0, 1] a little."""
        x = self.first(images)
        x = x + self.behind(self.body(x))
        for layer in self.up:
            x = F.leaky_relu(layer(F.interpolate(x, scale_factor=2.0, mode="nearest")), 0.2)
        return self.last(F.leaky_relu(self.high(x), 0.2))
