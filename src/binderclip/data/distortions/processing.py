"""What makes nothing fake (JPEG, blur, resizing, sharpening): to augment both classes, and as controls of detectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from binderclip.data.augment.fill import gaussian_blur
from binderclip.data.distortions.kinds import compressed
from binderclip.data.uniform import uniform
from binderclip.errors import UsageError


def resized_and_back(images: Float[Tensor, "B 3 H W"], share: float = 0.5) -> Float[Tensor, "B 3 H W"]:
    """Pictures made smaller and as large as before again, bicubic with antialiasing.

    Args:
        images: in [0, 1].
        share: of the side, in (0, 1].
    """
    size = [max(1, round(extent * share)) for extent in images.shape[-2:]]
    small = functional.interpolate(images, size, mode="bicubic", antialias=True)
    return functional.interpolate(small, images.shape[-2:], mode="bicubic", antialias=True).clamp(0, 1)


def sharpened(images: Float[Tensor, "B 3 H W"], amount: float = 1.0, sigma: float = 1.0) -> Float[Tensor, "B 3 H W"]:
    """Pictures plus what a Gaussian blur takes from them: the unsharp mask of every picture editor, without threshold.

    Args:
        images: in [0, 1].
        amount: how often what the blur takes is added; 0 changes nothing.
        sigma: of the blur, in pixels.
    """
    return (images + amount * (images - gaussian_blur(images, sigma))).clamp(0, 1)


def exposed(images: Float[Tensor, "B 3 H W"], stops: float) -> Float[Tensor, "B 3 H W"]:
    """Pictures as if exposed longer or shorter: linear light (sRGB, IEC 61966-2-1) times 2^stops, clipped at white.

    Args:
        images: in [0, 1].
        stops: above 0 brighter, below 0 darker.
    """
    light = torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)
    light = (light * 2.0**stops).clamp(0, 1)
    return torch.where(light <= 0.0031308, 12.92 * light, 1.055 * light.clamp_min(1e-6) ** (1 / 2.4) - 0.055).clamp(
        0, 1
    )


PROCESSING: dict[str, Callable[[Tensor], Tensor]] = {
    "JPEG 75": lambda images: compressed(images, 75),
    "JPEG 40": lambda images: compressed(images, 40),
    "blur 1 px": lambda images: gaussian_blur(images, 1.0),
    "half size and back": resized_and_back,
    "sharpen": sharpened,
}
"""Processing that makes nothing fake, (B, 3, H, W) -> the same shape: a detector's answer should not hang on it."""


@dataclass(frozen=True)
class Degradation:
    """Processing of some pictures at random, the same for real and generated ones: blur and JPEG, more if asked for.

    Each is applied with its probability, in this order: resizing, blur, sharpening, noise, JPEG. What a picture gets
    depends on (seed, its key, the epoch) only, so an aligned copy that is given its original's key gets the same.

    Args:
        blur: (least, largest) standard deviation in pixels.
        quality: (least, largest) quality of the JPEG.
        p: probability of each.
        seed: any integer.
        resize: (least, largest) share of the side that a picture is made smaller to before it is as large as before
            again, in (0, 1]; None for never.
        sharpen: (least, largest) amount of `sharpened`; None for never.
        noise: (least, largest) standard deviation of white noise, of values in [0, 1]; None for never.

    Raises:
        UsageError: a setting out of range.
    """

    blur: tuple[float, float] = (0.1, 3.0)
    quality: tuple[int, int] = (30, 100)
    p: float = 0.1
    seed: int = 0
    resize: tuple[float, float] | None = None
    sharpen: tuple[float, float] | None = None
    noise: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise UsageError(f"Degradation: p is {self.p}; it is a probability")
        if not 0 < self.blur[0] <= self.blur[1] or not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise UsageError(f"Degradation: blur {self.blur} and quality {self.quality} must be (least, largest)")
        if self.resize is not None and not 0 < self.resize[0] <= self.resize[1] <= 1:
            raise UsageError(f"Degradation: resize {self.resize} must be (least, largest) share of the side, up to 1")
        for name, ends in (("sharpen", self.sharpen), ("noise", self.noise)):
            if ends is not None and not 0 <= ends[0] <= ends[1] < float("inf"):
                raise UsageError(f"Degradation: {name} {ends} must be (least, largest), from 0")

    def __call__(self, image: Float[Tensor, "3 H W"], key: str, epoch: int = 0) -> Float[Tensor, "3 H W"]:
        """One picture in [0, 1]."""
        u = uniform(self.seed, [f"degradation/{key}"], epoch, 11)[0].tolist()
        image = image[None]
        if self.resize is not None and u[4] < self.p:
            image = resized_and_back(image, _between(self.resize, u[5]))
        if u[0] < self.p:
            image = gaussian_blur(image, _between(self.blur, u[1]))
        if self.sharpen is not None and u[6] < self.p:
            image = sharpened(image, _between(self.sharpen, u[7]))
        if self.noise is not None and u[8] < self.p:
            white = torch.randn(image.shape, generator=torch.Generator().manual_seed(int(u[10] * 2**24)))
            image = (image + _between(self.noise, u[9]) * white.to(image)).clamp(0, 1)
        if u[2] < self.p:
            least, most = self.quality
            image = compressed(image, least + int(u[3] * (most - least + 1)))
        return image[0]


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + share * (ends[1] - ends[0])
