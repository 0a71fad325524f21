"""JPEG, blur and resizing, which make nothing fake: as augmentation of both classes, and as controls of detectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from binderclip.data.augment.fill import gaussian_blur
from binderclip.data.distort.kinds import compressed
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


PROCESSING: dict[str, Callable[[Tensor], Tensor]] = {
    "JPEG 75": lambda images: compressed(images, 75),
    "JPEG 40": lambda images: compressed(images, 40),
    "blur 1 px": lambda images: gaussian_blur(images, 1.0),
    "half size and back": resized_and_back,
}
"""Processing that makes nothing fake, (B, 3, H, W) -> the same shape: a detector's answer should not hang on it."""


@dataclass(frozen=True)
class Degradation:
    """Blur and JPEG compression of some pictures at random, the same for real and generated ones.

    Each is applied with its probability, blur first. What a picture gets depends on (seed, its key, the epoch) only, so
    an aligned copy that is given its original's key gets the same.

    Args:
        blur: (least, largest) standard deviation in pixels.
        quality: (least, largest) quality of the JPEG.
        p: probability of each of the two.
        seed: any integer.

    Raises:
        UsageError: a setting out of range.
    """

    blur: tuple[float, float] = (0.1, 3.0)
    quality: tuple[int, int] = (30, 100)
    p: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise UsageError(f"Degradation: p is {self.p}; it is a probability")
        if not 0 < self.blur[0] <= self.blur[1] or not 1 <= self.quality[0] <= self.quality[1] <= 100:
            raise UsageError(f"Degradation: blur {self.blur} and quality {self.quality} must be (least, largest)")

    def __call__(self, image: Float[Tensor, "3 H W"], key: str, epoch: int = 0) -> Float[Tensor, "3 H W"]:
        """One picture in [0, 1]."""
        u = uniform(self.seed, [f"degradation/{key}"], epoch, 4)[0].tolist()
        if u[0] < self.p:
            low, high = self.blur
            image = gaussian_blur(image[None], low + u[1] * (high - low))[0]
        if u[2] < self.p:
            least, most = self.quality
            image = compressed(image[None], least + int(u[3] * (most - least + 1)))[0]
        return image
