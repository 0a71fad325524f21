"""What the distortions share: seeded draws for each image, kernels for each image, and sampling at moved places."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


class Draws:
    """Random numbers of a distortion, one stream an image: independent of the batch, the level and the device.

    The level is not part of the stream: a stronger level is the same noise, field or set of patches, only more of it.

    Args:
        name: the distortion.
        seeds: one seed an image.
        like: tensor whose dtype and device the draws take.
    """

    def __init__(self, name: str, seeds: Sequence[int], like: Tensor) -> None:
        self._like = like
        self._streams = []
        for seed in seeds:
            digest = hashlib.blake2b(f"{name}/{seed}".encode(), digest_size=8).digest()
            self._streams.append(torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1))

    def normal(self, *shape: int) -> Float[Tensor, "B *shape"]:
        """Standard normal values, `shape` for each image."""
        return torch.stack([torch.randn(shape, generator=one) for one in self._streams]).to(self._like)

    def uniform(self, *shape: int) -> Float[Tensor, "B *shape"]:
        """Values uniform in [0, 1), `shape` for each image."""
        return torch.stack([torch.rand(shape, generator=one) for one in self._streams]).to(self._like)

    def poisson(self, rate: Float[Tensor, "B *shape"]) -> Float[Tensor, "B *shape"]:
        """Poisson counts of the given rates."""
        rates = rate.detach().cpu().float()
        return torch.stack(
            [torch.poisson(one, generator=draw) for one, draw in zip(rates, self._streams, strict=True)]
        ).to(self._like)


def filter_images(images: Float[Tensor, "B C H W"], kernels: Float[Tensor, "B k k"]) -> Float[Tensor, "B C H W"]:
    """Correlate each image with its own kernel (k odd), the border repeated."""
    batch, channels, height, width = images.shape
    reach = kernels.shape[-1] // 2
    padded = functional.pad(images, (reach,) * 4, mode="replicate")
    weight = kernels.to(images).repeat_interleave(channels, 0)[:, None]
    flat = functional.conv2d(padded.reshape(1, batch * channels, *padded.shape[-2:]), weight, groups=batch * channels)
    return flat.reshape(batch, channels, height, width)


def disc_blurred(images: Float[Tensor, "B C H W"], radius: float) -> Float[Tensor, "B C H W"]:
    """Mean over a disc of that radius in pixels, with a soft rim."""
    reach = min(math.ceil(radius + 0.5), min(images.shape[-2:]) - 1)
    taps = torch.arange(-reach, reach + 1, dtype=torch.float32)
    disc = (radius + 0.5 - torch.hypot(taps[:, None], taps)).clamp(0, 1)
    return filter_images(images, (disc / disc.sum()).expand(len(images), -1, -1))


def sample_at(
    images: Float[Tensor, "B C H W"],
    dy: Float[Tensor, "B H W"],
    dx: Float[Tensor, "B H W"],
    mode: str = "bilinear",
    *,
    border: str = "reflection",
) -> Float[Tensor, "B C H W"]:
    """The images read at places moved by (dy, dx) pixels; beyond the border they are mirrored, or as `border` says."""
    height, width = images.shape[-2:]
    y = torch.arange(height, device=images.device, dtype=images.dtype)[:, None] + dy + 0.5
    x = torch.arange(width, device=images.device, dtype=images.dtype) + dx + 0.5
    grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], -1)
    return functional.grid_sample(images, grid, mode=mode, padding_mode=border, align_corners=False)


def clouds(draws: Draws, height: int, width: int, octaves: int = 5) -> Float[Tensor, "B H W"]:
    """Smooth fractal fields in [0, 1], each octave twice as fine and half as strong."""
    total: Tensor | None = None
    for octave in range(octaves):
        cells = 2 ** (octave + 1) + 1
        field = functional.interpolate(
            draws.normal(1, cells, cells), (height, width), mode="bicubic", align_corners=True
        )
        total = field * 0.5**octave if total is None else total + field * 0.5**octave
    assert total is not None
    flat = total[:, 0]
    low, high = flat.amin((1, 2), keepdim=True), flat.amax((1, 2), keepdim=True)
    return (flat - low) / (high - low)


def luma(images: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B 1 H W"]:
    """Rec. 601 luma."""
    return (images * images.new_tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
