"""What all transforms have in common, and the simplest of them: the pixels themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError


@runtime_checkable
class Representation(Protocol):
    """Pictures as coefficients and back: linear, differentiable, and exact in this order."""

    def analysis(self, images: Float[Tensor, "*batch H W"]) -> Float[Tensor, "..."]:
        """The coefficients of each picture, in the dimensions after `batch`."""

    def synthesis(self, coefficients: Float[Tensor, "..."], size: tuple[int, int]) -> Tensor:
        """Pictures (*batch, H, W) of `size` from coefficients; the inverse of `analysis`."""

    def bands(self, size: tuple[int, int]) -> tuple[int, ...]:
        """How many consecutive coefficients belong to each band, in the order in which a flattened picture has them."""


@dataclass(frozen=True)
class PixelTransform:
    """The identity: a picture's coefficients are its pixels, in one band.

    Examples:
        >>> PixelTransform().bands((4, 5))
        (20,)
    """

    def analysis(self, images: Float[Tensor, "*batch H W"]) -> Float[Tensor, "*batch H W"]:
        """The pixels."""
        picture_size(images)
        return images

    def synthesis(
        self, coefficients: Float[Tensor, "*batch H W"], size: tuple[int, int]
    ) -> Float[Tensor, "*batch H W"]:
        """The pixels again."""
        if tuple(coefficients.shape[-2:]) != tuple(size):
            raise UsageError(f"coefficients {tuple(coefficients.shape)} are not pixels of size {tuple(size)}")
        return coefficients

    def bands(self, size: tuple[int, int]) -> tuple[int, ...]:
        """One band."""
        return (size[0] * size[1],)


def picture_size(images: Tensor) -> tuple[int, int]:
    """(H, W) of float pictures.

    Raises:
        UsageError: fewer than two dimensions, an empty picture, or no float32 or float64.
    """
    if images.ndim < 2 or not min(images.shape[-2:]):
        raise UsageError(f"images must be (..., H, W), not {tuple(images.shape)}")
    if str(images.dtype) not in ("torch.float32", "torch.float64"):
        raise UsageError(f"images must be float32 or float64, not {images.dtype}: convert them with .float()")
    return images.shape[-2], images.shape[-1]
