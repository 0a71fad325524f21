"""What stands in for pixels that are taken away: deletion tests, occlusion masks and retraining without pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from binderclip.errors import UsageError

FILLS = ("mean", "zero", "blur", "noise")
MATRIX = 180
"""Sides of up to so many times a kernel's reach are blurred by a product of matrices: at 224, 512 and 1440 px it was
20, 5 and 1.2 times as fast as a convolution that reaches 8 pixels, at 2880 px no slower."""


class Fill:
    """A rule for the values of removed pixels, the same for every method that removes some.

    `Fill("blur")(images)` is the stand-in picture; `fill.apply(images, keep)` mixes it in where `keep` is 0. "mean" is
    each image's own mean colour, "zero" is black (or `value`), "blur" a Gaussian blur that leaves no detail, "noise" a
    normal draw around the image's mean with its own spread per channel.

    Args:
        rule: "mean", "zero", "blur" or "noise".
        sigma: standard deviation of the blur as a fraction of the longer side.
        value: colour of "zero", one number or one per channel, in [0, 1].
        seed: of "noise"; the draw depends on the image's place in the batch and on nothing else.

    Raises:
        UsageError: an unknown rule.
    """

    def __init__(
        self, rule: str = "mean", *, sigma: float = 0.08, value: float | Sequence[float] = 0.0, seed: int = 0
    ) -> None:
        if rule not in FILLS:
            raise UsageError(f"fill {rule!r} is unknown; use {', '.join(FILLS)}")
        if sigma <= 0:
            raise UsageError(f"sigma {sigma} of a blur fill is not above 0")
        self.rule, self.sigma, self.value, self.seed = rule, sigma, value, seed

    def __repr__(self) -> str:
        return f"Fill({self.rule!r})"

    def __call__(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """The stand-in for every pixel of `images`, in [0, 1] where they are."""
        mean = images.mean((2, 3), keepdim=True)
        if self.rule == "mean":
            return mean.expand_as(images)
        if self.rule == "zero":
            colour = torch.as_tensor(self.value, dtype=images.dtype, device=images.device).reshape(1, -1, 1, 1)
            if colour.shape[1] not in (1, images.shape[1]):
                raise UsageError(f"fill has {colour.shape[1]} numbers for images of {images.shape[1]} channels")
            return colour.expand_as(images)
        if self.rule == "blur":
            return gaussian_blur(images, self.sigma * max(images.shape[-2:]))
        spread = images.std((2, 3), keepdim=True, correction=0)
        draw = torch.Generator().manual_seed(self.seed)
        noise = torch.stack([torch.randn(images.shape[1:], generator=draw) for _ in range(len(images))])
        return (mean + spread * noise.to(images)).clamp(0, 1)

    def apply(
        self, images: Float[Tensor, "B C H W"], keep: Float[Tensor, "B *one H W"] | Bool[Tensor, "B *one H W"]
    ) -> Float[Tensor, "B C H W"]:
        """`keep * images + (1 - keep) * fill`, differentiable in both.

        Args:
            images: pictures.
            keep: 1 (or True) where the picture stays; (B, 1, H, W) or (B, H, W).
        """
        weight = keep.to(images.dtype)
        weight = weight[:, None] if weight.ndim == 3 else weight
        return torch.lerp(self(images).expand_as(images), images, weight.expand_as(images))


def gaussian_blur(images: Float[Tensor, "B C H W"], sigma: float | tuple[float, float]) -> Float[Tensor, "B C H W"]:
    """Separable Gaussian blur, cut at four standard deviations, mirrored at the border.

    Args:
        images: pictures or maps.
        sigma: standard deviation in pixels, or (vertical, horizontal); 0 leaves that direction alone.
    """
    pair = (float(sigma), float(sigma)) if isinstance(sigma, (int, float)) else sigma
    for axis, width in ((-2, pair[0]), (-1, pair[1])):
        if width > 0:
            images = _blur_along(images, width, axis)
    return images


def _blur_along(images: Tensor, sigma: float, axis: int) -> Tensor:
    length = images.shape[axis]
    reach = max(1, int(4 * sigma + 0.5))
    taps = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(images)
    # Tails that are longer than the side are folded back by hand, as mirror images of mirror images; and a product of
    # matrices is up to twenty times as fast as a convolution of one channel.
    if length <= MATRIX * reach:
        rows = torch.arange(length)
        columns = _mirrored(rows[:, None] + torch.arange(-reach, reach + 1), length).to(images.device)  # (n, taps)
        weights = images.new_zeros(length, length).scatter_add_(1, columns, kernel.expand(length, -1))
        return (weights @ images) if axis == -2 else (images @ weights.T)
    flat = images.reshape(-1, 1, *images.shape[-2:])
    if axis == -2:
        padded = functional.pad(flat, (0, 0, reach, reach), mode="reflect")
        return functional.conv2d(padded, kernel[None, None, :, None]).reshape(images.shape)
    padded = functional.pad(flat, (reach, reach, 0, 0), mode="reflect")
    return functional.conv2d(padded, kernel[None, None, None, :]).reshape(images.shape)


def _mirrored(index: Tensor, length: int) -> Tensor:
    if length == 1:
        return torch.zeros_like(index)
    period = 2 * (length - 1)
    index = index.remainder(period)
    return torch.minimum(index, period - index)
