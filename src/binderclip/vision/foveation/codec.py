"""Encoders of pictures with decoders: blocks with an exact inverse, and the network of the released weights."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["BlockCodec", "FeatureCodec"]

#: Output channels of the 3 x 3 convolutions of VGG19 up to relu4_1; None is a max-pooling.
VGG = (64, 64, None, 128, 128, None, 256, 256, 256, 256, None, 512)
#: Of its mirrored decoder; None doubles the side by repeating pixels.
MIRRORED = (256, None, 256, 256, 256, 128, None, 128, 64, None, 64, 3)


class FeatureCodec(nn.Module):
    """An encoder of pictures and a decoder of its maps.

    Args:
        encoder: from (B, 3, H, W) in [0, 1] to maps (B, C, h, w).
        decoder: back.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    @classmethod
    def adain(cls) -> FeatureCodec:
        """VGG19 up to relu4_1 behind a 1 x 1 convolution, and its mirrored decoder, without weights.

        `encoder` and `decoder` have the names of `vgg_normalised.pth` and `decoder-content-similar.pth`, which the
        authors give out: load the first with `strict=False`, as it goes on to relu5_4.

        Papers: Arbitrary Style Transfer in Real-time with Adaptive Instance Normalization (arXiv 1703.06868); Towards
        Metamerism via Foveated Style Transfer (arXiv 1705.10041).
        """
        encoder: list[nn.Module] = [nn.Conv2d(3, 3, 1)]
        channels = 3
        for width in VGG:
            if width is None:
                encoder.append(nn.MaxPool2d(2, 2, ceil_mode=True))
                continue
            encoder += [nn.ReflectionPad2d(1), nn.Conv2d(channels, width, 3), nn.ReLU()]
            channels = width
        decoder: list[nn.Module] = []
        for width in MIRRORED:
            if width is None:
                decoder.append(nn.Upsample(scale_factor=2, mode="nearest"))
                continue
            decoder += [nn.ReflectionPad2d(1), nn.Conv2d(channels, width, 3), nn.ReLU()]
            channels = width
        return cls(nn.Sequential(*encoder), nn.Sequential(*decoder[:-1]))  # colours are not rectified

    def encode(self, images: Float[Tensor, "B K H W"]) -> Float[Tensor, "B C h w"]:
        """Maps of pictures."""
        return self.encoder(images)

    def decode(self, maps: Float[Tensor, "B C h w"]) -> Float[Tensor, "B K H W"]:
        """Pictures of maps."""
        return self.decoder(maps)


class _Blocks(nn.Module):
    basis: Tensor

    def __init__(self, side: int, inverse: bool) -> None:
        super().__init__()
        self.side, self.inverse = side, inverse
        k, n = torch.meshgrid(*(torch.arange(side, dtype=torch.float64),) * 2, indexing="ij")
        rows = (math.pi * (n + 0.5) * k / side).cos() * math.sqrt(2 / side)
        rows[0] = 1 / math.sqrt(side)
        self.register_buffer("basis", torch.einsum("ay,bx->abyx", rows, rows).reshape(-1, 1, side, side))

    def forward(self, x: Tensor) -> Tensor:
        group = 1 if not self.inverse else self.side**2
        kernel, channels = self.basis.to(x), x.shape[1] // group
        if self.inverse:
            return F.conv_transpose2d(x, kernel.repeat(channels, 1, 1, 1), stride=self.side, groups=channels)
        if x.shape[-1] % self.side or x.shape[-2] % self.side:
            raise UsageError(f"sides must be multiples of {self.side}, got {tuple(x.shape[-2:])}")
        return F.conv2d(x, kernel.repeat(channels, 1, 1, 1), stride=self.side, groups=channels)


class BlockCodec(FeatureCodec):
    """The cosine transform of square blocks: orthonormal, with an exact inverse and nothing to train.

    A map has a channel for each frequency of each colour and a place for each block.

    Args:
        side: of a block in pixels, 1 to 64; 1 leaves pictures as they are.

    Raises:
        UsageError: a side out of range; at the call, pictures whose sides are no multiples of it.
    """

    def __init__(self, side: int = 2) -> None:
        check_whole("side", side, least=1)
        check_number("side", side, most=64)
        super().__init__(_Blocks(side, inverse=False), _Blocks(side, inverse=True))
