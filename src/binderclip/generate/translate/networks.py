"""Convolutional networks of image translation, with the parameters' names of their released code."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError
from binderclip.numeric import check_number, check_whole

__all__ = ["PatchDiscriminator", "ResnetTranslator", "xavier_start"]

MOST = 4096
"""Channels or blocks; more is a slip."""


class ResnetTranslator(nn.Module):
    """A picture from a picture: two anti-aliased halvings, residual blocks, two doublings, tanh; instance norms.

    `features` gives what chosen modules of the encoder answer. State dicts have the keys of the released code's
    `resnet_9blocks` (and `_6blocks`, `_4blocks`), so its `*_net_G.pth` loads by `load_state_dict`.

    Args:
        in_channels: of the input.
        out_channels: of the output, in [-1, 1].
        ngf: channels after the first convolution, in [1, 4096].
        n_blocks: residual blocks, in [0, 4096].

    Raises:
        UsageError: a number out of range.

    Paper: Contrastive Learning for Unpaired Image-to-Image Translation (arXiv 2007.15651).

    Examples:
        >>> translator = ResnetTranslator(ngf=4, n_blocks=1)
        >>> translator(torch.zeros(1, 3, 16, 16)).shape
        torch.Size([1, 3, 16, 16])
        >>> [tuple(tap.shape[1:]) for tap in translator.features(torch.zeros(1, 3, 16, 16), (0, 4, 8))]
        [(3, 22, 22), (8, 16, 16), (16, 8, 8)]
    """

    def __init__(self, in_channels: int = 3, out_channels: int = 3, ngf: int = 64, n_blocks: int = 9) -> None:
        super().__init__()
        for name, value, least in (("in_channels", in_channels, 1), ("out_channels", out_channels, 1), ("ngf", ngf, 1)):
            check_whole(name, value, least=least)
            check_number(name, value, most=MOST)
        check_whole("n_blocks", n_blocks, least=0)
        check_number("n_blocks", n_blocks, most=MOST)
        layers: list[nn.Module] = [nn.ReflectionPad2d(3), *_normed(nn.Conv2d(in_channels, ngf, 7))]
        for width in (ngf, 2 * ngf):
            layers += [*_normed(nn.Conv2d(width, 2 * width, 3, padding=1)), _Halve(2 * width)]
        layers += [_ResidualBlock(4 * ngf) for _ in range(n_blocks)]
        for width in (4 * ngf, 2 * ngf):
            layers += [_Double(width), *_normed(nn.Conv2d(width, width // 2, 3, padding=1))]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(ngf, out_channels, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        self.n_blocks, self.in_channels = n_blocks, in_channels
        xavier_start(self)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C2 H W"]:
        """Translate pictures in [-1, 1] whose sides are multiples of 4."""
        if x.shape[-1] % 4 or x.shape[-2] % 4 or min(x.shape[-2:]) < 8:
            raise UsageError(f"pictures must have sides that are multiples of 4 and at least 8, got {tuple(x.shape)}")
        return self.model(x)

    def features(self, x: Float[Tensor, "B C H W"], taps: Sequence[int]) -> list[Float[Tensor, "B _ _ _"]]:
        """What modules of the encoder answer; nothing after the last one is computed.

        Args:
            x: pictures.
            taps: places in `model`, rising: 0 the padded picture, 4 and 8 the halving convolutions, 12 to 11 + n_blocks
                the residual blocks.
        """
        result = []
        for place, layer in enumerate([*self.model][: taps[-1] + 1]):
            x = layer(x)
            if place in taps:
                result.append(x)
        return result

    def tap_channels(self, taps: Sequence[int]) -> list[int]:
        """Channels of `features`.

        Raises:
            UsageError: taps that do not rise, or are none of the encoder's.
        """
        if not taps or list(taps) != sorted(set(taps)) or taps[0] < 0 or taps[-1] > 11 + self.n_blocks:
            raise UsageError(f"taps must rise from 0 to {11 + self.n_blocks} at most, got {tuple(taps)}")
        with torch.no_grad():
            reference = next(self.parameters())
            return [one.shape[1] for one in self.features(reference.new_zeros(1, self.in_channels, 16, 16), taps)]


class PatchDiscriminator(nn.Module):
    """Logits of overlapping patches of a picture, 70 pixels wide by default.

    State dicts have the keys of the released code's `basic` discriminator, anti-aliased, or without it of pix2pix's.

    Args:
        in_channels: of the picture, with whatever it is conditioned on.
        ndf: channels of the first convolution, in [1, 4096].
        n_layers: halvings, in [1, 8].
        antialias: blur before each halving; otherwise the convolutions have stride 2.

    Raises:
        UsageError: a number out of range.

    Paper: Contrastive Learning for Unpaired Image-to-Image Translation (arXiv 2007.15651).

    Examples:
        >>> PatchDiscriminator(ndf=8)(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 1, 6, 6])
    """

    def __init__(self, in_channels: int = 3, ndf: int = 64, n_layers: int = 3, *, antialias: bool = True) -> None:
        super().__init__()
        for name, value, most in (("in_channels", in_channels, MOST), ("ndf", ndf, MOST), ("n_layers", n_layers, 8)):
            check_whole(name, value, least=1)
            check_number(name, value, most=most)
        widths = [ndf * min(2**n, 8) for n in range(n_layers + 1)]
        stride = 1 if antialias else 2
        layers: list[nn.Module] = []
        for number, (before, width) in enumerate(zip([in_channels, *widths], widths, strict=False)):
            last = number == n_layers
            layers.append(nn.Conv2d(before, width, 4, 1 if last else stride, 1))
            layers += [nn.InstanceNorm2d(width)] if number else []
            layers.append(nn.LeakyReLU(0.2))
            layers += [_Halve(width)] if antialias and not last else []
        self.model = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        xavier_start(self)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 h w"]:
        """Logits of patches."""
        return self.model(x)


@torch.no_grad()
def xavier_start(module: nn.Module, gain: float = 0.02) -> None:
    """Draw the weights of all convolutions and linear layers by Xavier's normal rule, and put the biases to 0.

    Args:
        module: in place.
        gain: factor on the standard deviation, in [0, 1e3].

    Raises:
        UsageError: a gain out of range.
    """
    check_number("gain", gain, least=0, most=1e3)
    for layer in module.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_normal_(layer.weight, gain=gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def _normed(convolution: nn.Conv2d) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(convolution.out_channels), nn.ReLU()]


class _ResidualBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        second = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
        self.conv_block = nn.Sequential(nn.ReflectionPad2d(1), *_normed(nn.Conv2d(width, width, 3)), *second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class _Halve(nn.Module):
    """Half the resolution behind a binomial blur, which keeps high frequencies from folding back."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("filt", torch.outer(line, line).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), self.filt, stride=2, groups=len(self.filt))


class _Double(nn.Module):
    """Twice the resolution by the binomial filter 1 3 3 1."""

    filt: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 4
        self.register_buffer("filt", torch.outer(line, line).repeat(channels, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (1, 1, 1, 1), "replicate")
        return F.conv_transpose2d(x, self.filt, stride=2, padding=3, groups=len(self.filt))
