"""Frequencies that down-sampling folds onto others: how much of them there is, and two modules that act on them.

A layer that halves a feature map keeps what lies below its Nyquist frequency. Energy above it comes back as false low
frequencies, and segmenters err most where that happens.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from binderclip.errors import UsageError

__all__ = [
    "CUTOFF",
    "DeAliasingFilter",
    "FrequencyMixing",
    "aliasing_map",
    "aliasing_score",
    "equivalent_sampling_rate",
]

#: Cycles a sample: the Nyquist frequency of stride 2 with twice the channels, sqrt(2) / 4, as the authors round it.
CUTOFF = 0.35


def equivalent_sampling_rate(kernel: int, stride: int, channels: int, outputs: int) -> float:
    """Samples a layer keeps per sample and axis of its input: channels carry samples too.

    min(kernel, sqrt(outputs / channels), stride) / stride. Half of it is the Nyquist frequency in cycles a sample:
    stride 2 with twice the channels keeps 0.71 (a Nyquist frequency of 0.354), with four times the channels 1.

    Args:
        kernel: side of the kernel in pixels.
        stride: of the layer.
        channels: of its input.
        outputs: channels of its output.

    Raises:
        UsageError: a number below 1.

    Paper: When Semantic Segmentation Meets Frequency Aliasing (arXiv 2403.09065).
    """
    if min(kernel, stride, channels, outputs) < 1:
        raise UsageError(
            f"kernel, stride, channels and outputs must be at least 1, not {kernel}, {stride}, {channels}, {outputs}"
        )
    return min(kernel, math.sqrt(outputs / channels), stride) / stride


def aliasing_score(x: Float[Tensor, "B C H W"], *, cutoff: float = CUTOFF) -> Float[Tensor, "B"]:
    """Share of a map's energy above a frequency along either axis, averaged over channels.

    White noise scores about 1 - (2 cutoff)^2. A channel of zeros scores 0. The mean of the map counts as energy below.

    Args:
        x: feature maps (or images) that are about to be down-sampled.
        cutoff: Nyquist frequency of the down-sampling in cycles a sample, in (0, 0.5]; see `equivalent_sampling_rate`.

    Raises:
        UsageError: not (B, C, H, W), or a cut-off outside (0, 0.5].

    Paper: When Semantic Segmentation Meets Frequency Aliasing (arXiv 2403.09065).
    """
    _check(x, cutoff)
    power = torch.fft.fft2(_full(x)).abs().square()
    return _share(power, _above(x.shape[-2], x.shape[-1], cutoff, x.device)).mean(1)


def aliasing_map(x: Float[Tensor, "B C H W"], *, cutoff: float = CUTOFF, window: int = 8) -> Float[Tensor, "B H W"]:
    """`aliasing_score` of the window around each place, to be laid beside the errors made there.

    Args:
        x: feature maps.
        cutoff: as in `aliasing_score`.
        window: side in pixels; the map is mirrored at its border. Memory is that of window^2 maps.

    Raises:
        UsageError: as `aliasing_score`, or a window below 2 or larger than the map.
    """
    _check(x, cutoff)
    if not 2 <= window <= min(x.shape[-2:]):
        raise UsageError(f"window must be 2 to {min(x.shape[-2:])} (the side of the map), not {window}")
    before, after = window // 2, (window - 1) // 2
    padded = F.pad(_full(x), (before, after, before, after), mode="reflect")
    windows = padded.unfold(-2, window, 1).unfold(-2, window, 1)
    power = torch.fft.fft2(windows).abs().square()
    return _share(power, _above(window, window, cutoff, x.device)).mean(1)


class DeAliasingFilter(nn.Module):
    """Ideal low-pass filter for the map that a strided layer is about to halve: what it would alias is taken out.

    Keeps the rows round(H/2 - H f) to round(H/2 + H f) (half open) of the centred spectrum and the same columns. Of an
    even side that keeps one negative frequency without its positive twin, which leaves the real part half of it.

    Place it before the strided convolution and before the pooling of a shortcut alike. There is nothing to learn.

    Args:
        cutoff: f in cycles a sample, in (0, 0.5]; 0.5 keeps everything.
        downsample: return the middle half of the spectrum instead, a map of half the side whose mean is that of `x`
            (the authors' program gives four times as much); `cutoff` is then not used.

    Raises:
        UsageError: a cut-off outside (0, 0.5]; at the call, not (B, C, H, W), or sides below 4 with `downsample`.

    Paper: When Semantic Segmentation Meets Frequency Aliasing (arXiv 2403.09065).
    """

    def __init__(self, cutoff: float = CUTOFF, *, downsample: bool = False) -> None:
        super().__init__()
        _check(None, cutoff)
        self.cutoff, self.downsample = cutoff, downsample

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C h w"]:
        """The map without its high frequencies, in the dtype it came in."""
        _check(x, self.cutoff)
        height, width = x.shape[-2:]
        spectrum = torch.fft.fft2(_full(x))
        if not self.downsample:
            return torch.fft.ifft2(spectrum * _kept(height, width, self.cutoff, x.device)).real.to(x.dtype)
        if min(height, width) < 4:
            raise UsageError(f"a map of {height} x {width} cannot be halved in its spectrum: sides must be at least 4")
        middle = torch.fft.fftshift(spectrum, dim=(-2, -1))
        middle = middle[..., height // 4 : height * 3 // 4, width // 4 : width * 3 // 4]
        small = torch.fft.ifft2(torch.fft.ifftshift(middle, dim=(-2, -1))).real
        return (small * (small.shape[-2] * small.shape[-1] / (height * width))).to(x.dtype)

    def extra_repr(self) -> str:
        """Its settings."""
        return f"cutoff={self.cutoff:g}, downsample={self.downsample}"


class FrequencyMixing(nn.Module):
    """Weigh the low and the high band of a map by place and by channel, instead of throwing the high one away.

    y = low * w_0 * a_low + high * w_1 * a_high: w in (0, 1) comes from a 3 x 3 convolution, a for each channel from a
    bottleneck g on the mean of the band's spectrum, sqrt(g(real)^2 + g(imaginary)^2). Put it after the 3 x 3
    convolution of a block, before its normalisation.

    The mean of a spectrum is the band's value at the first pixel: that is what the authors' program looks at, and it is
    kept. Since g ends in a sigmoid, a reaches sqrt(2).

    Args:
        channels: C of the map.
        cutoff: where the bands part, in cycles a sample, in (0, 0.5].
        reduction: the bottleneck has C / reduction channels.
        residual: add the map itself; not in the final model of the paper.
        released: as the authors' program: its shift of the spectrum also moves the batch and the channels by half, so
            that a picture's channel weights come from another one of its batch.

    Raises:
        UsageError: a cut-off outside (0, 0.5], fewer channels than `reduction`; at the call, another number of
            channels.

    Paper: When Semantic Segmentation Meets Frequency Aliasing (arXiv 2403.09065).
    """

    def __init__(
        self,
        channels: int,
        *,
        cutoff: float = CUTOFF,
        reduction: int = 16,
        residual: bool = False,
        released: bool = False,
    ) -> None:
        super().__init__()
        _check(None, cutoff)
        if reduction < 1 or channels < reduction:
            raise UsageError(f"channels {channels} must be at least reduction {reduction}, and that at least 1")
        self.channels, self.cutoff, self.residual, self.released = channels, cutoff, residual, released
        self.place = nn.Conv2d(channels, 2, 3, padding=1)
        self.low, self.high = _bottleneck(channels, reduction), _bottleneck(channels, reduction)

    def forward(self, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The mixed map, in the dtype it came in."""
        _check(x, self.cutoff)
        if x.shape[1] != self.channels:
            raise UsageError(f"the map has {x.shape[1]} channels, not {self.channels}")
        weights = self.place(x).sigmoid()
        spectrum = torch.fft.fft2(_full(x))
        kept = _kept(x.shape[-2], x.shape[-1], self.cutoff, x.device)
        low = torch.fft.ifft2(spectrum * kept).real
        mixed = low * weights[:, :1] * self._attention(self.low, spectrum * kept)
        mixed = mixed + (x - low) * weights[:, 1:] * self._attention(self.high, spectrum * ~kept)
        return (mixed + x if self.residual else mixed).to(x.dtype)

    def _attention(self, net: nn.Sequential, spectrum: Tensor) -> Float[Tensor, "B C 1 1"]:
        pooled = spectrum.mean(dim=(-2, -1), keepdim=True)
        if self.released:
            pooled = torch.fft.fftshift(pooled, dim=(0, 1))
        return (net(pooled.real).square() + net(pooled.imag).square() + 1e-8).sqrt()


def _bottleneck(channels: int, reduction: int) -> nn.Sequential:
    middle = channels // reduction
    return nn.Sequential(nn.Conv2d(channels, middle, 1), nn.ReLU(), nn.Conv2d(middle, channels, 1), nn.Sigmoid())


def _check(x: Tensor | None, cutoff: float) -> None:
    if not 0 < cutoff <= 0.5:
        raise UsageError(f"cutoff must be in (0, 0.5] cycles a sample, not {cutoff}")
    if x is not None and x.ndim != 4:
        raise UsageError(f"maps are (B, C, H, W), not {tuple(x.shape)}")


def _full(x: Tensor) -> Tensor:
    """No Fourier transform of half precision on every device."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _kept(height: int, width: int, cutoff: float, device: torch.device) -> Bool[Tensor, "H W"]:
    """The band that stays, in the order of `fft2`."""
    axes = []
    for side in (height, width):
        axis = torch.zeros(side, dtype=torch.bool, device=device)
        axis[round(side / 2 - side * cutoff) : round(side / 2 + side * cutoff)] = True
        axes.append(torch.fft.ifftshift(axis))
    return axes[0][:, None] & axes[1]


def _above(height: int, width: int, cutoff: float, device: torch.device) -> Bool[Tensor, "H W"]:
    """Frequencies above the cut-off along either axis, in the order of `fft2`."""
    rows, columns = (torch.fft.fftfreq(side, device=device).abs() > cutoff for side in (height, width))
    return rows[:, None] | columns


def _share(power: Float[Tensor, "... h w"], above: Bool[Tensor, "h w"]) -> Float[Tensor, "..."]:
    total = power.sum(dim=(-2, -1))
    return (power * above).sum(dim=(-2, -1)) / total.clamp(min=torch.finfo(power.dtype).tiny)
