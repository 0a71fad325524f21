"""Fills masked parts of pictures: gated convolutions, a dense block of dilated ones, and self-attention."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_whole

__all__ = ["CompletionNet", "GatedConv2d", "MapSelfAttention"]

_RATES = 1, 2, 4, 8
"""Dilations of the dense block."""


class GatedConv2d(nn.Module):
    """`LeakyReLU(conv_f(x)) * sigmoid(conv_g(x))`: a convolution that learns where to let its features through.

    Args:
        before, after: channels of input and output.
        size: of the kernel, odd.
        stride, dilation: of both convolutions; padding keeps the size at stride 1.

    Paper: Free-Form Image Inpainting with Gated Convolution (arXiv 1806.03589).
    """

    def __init__(self, before: int, after: int, size: int = 3, *, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        padding = dilation * (size // 2)
        # Features and gates in one convolution.
        self.conv = nn.Conv2d(before, 2 * after, size, stride, padding, dilation)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B D h w"]:
        """The features that pass."""
        features, gate = self.conv(x).chunk(2, 1)
        return F.leaky_relu(features, 0.2) * gate.sigmoid()


class MapSelfAttention(nn.Module):
    """`gamma * softmax(q k^T) v + x` over all places of a map; untrained the identity.

    Args:
        channels: C; queries and keys have an eighth of it, at least 1.

    Paper: Self-Attention Generative Adversarial Networks (arXiv 1805.08318).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(channels // 8, 1)
        self.query, self.key = nn.Conv2d(channels, inner, 1), nn.Conv2d(channels, inner, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The map, with what it gathers from everywhere."""
        q, k, v = (layer(x).flatten(2).transpose(1, 2) for layer in (self.query, self.key, self.value))
        gathered = F.scaled_dot_product_attention(q, k, v, scale=1.0)
        return self.gamma * gathered.transpose(1, 2).reshape(x.shape) + x


class CompletionNet(nn.Module):
    """Paints the masked part of a picture, from the rest of it and the mask.

    Gated convolutions down to a quarter of the size, a dense block with dilations of 1, 2, 4 and 8 in which each sees
    all before it, self-attention, and back up. What is under the mask is taken out first: nothing of it counts.

    Args:
        width: channels at full size.
        growth: channels that each layer of the dense block adds.

    Raises:
        UsageError: a number below 1.

    Paper: Deep Generative Adversarial Network for Occlusion Removal from a Single Image (arXiv 2409.13242); its widths
    are not published.

    Examples:
        >>> import torch
        >>> net = CompletionNet(8, growth=4).eval()
        >>> picture, mask = torch.rand(1, 3, 18, 21), torch.ones(1, 1, 18, 21)
        >>> torch.equal(net(picture, mask), net(torch.rand(1, 3, 18, 21), mask))
        True
    """

    def __init__(self, width: int = 24, *, growth: int = 16) -> None:
        super().__init__()
        check_whole("width", width, least=1)
        check_whole("growth", growth, least=1)
        deep = 4 * width
        self.down = nn.Sequential(
            GatedConv2d(4, width, 5), GatedConv2d(width, 2 * width, stride=2), GatedConv2d(2 * width, deep, stride=2)
        )
        self.dense = nn.ModuleList(
            GatedConv2d(deep + i * growth, growth, dilation=rate) for i, rate in enumerate(_RATES)
        )
        self.fuse = GatedConv2d(deep + len(_RATES) * growth, deep, 1)
        self.attention = MapSelfAttention(deep)
        self.up = nn.ModuleList([GatedConv2d(deep, 2 * width), GatedConv2d(2 * width, width)])
        self.last = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, images: Float[Tensor, "B 3 H W"], mask: Float[Tensor, "B 1 H W"]) -> Float[Tensor, "B 3 H W"]:
        """A picture in [0, 1], painted everywhere.

        Args:
            images: in [0, 1], of any size.
            mask: 1 where to paint.

        Raises:
            UsageError: a picture and a mask that do not match.
        """
        if images.ndim != 4 or images.shape[1] != 3 or mask.shape != (len(images), 1, *images.shape[2:]):
            raise UsageError(f"{tuple(images.shape)} and {tuple(mask.shape)} must be (B, 3, H, W) and (B, 1, H, W)")
        height, width = images.shape[-2:]
        x = torch.cat([images * (1 - mask), mask], 1)
        x = self.down(F.pad(x, (0, -width % 4, 0, -height % 4)))
        for layer in self.dense:
            x = torch.cat([x, layer(x)], 1)
        x = self.attention(self.fuse(x))
        for layer in self.up:
            x = layer(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.last(x).sigmoid()[..., :height, :width]
