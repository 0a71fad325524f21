"""Factors of the gradient that stand for the derivative of rounding, of a sign or of a spike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number

__all__ = ["ClippedStraightThrough", "MagnitudeAware", "StraightThroughSurrogate", "Surrogate", "WindowSurrogate"]


@runtime_checkable
class Surrogate(Protocol):
    """The factor of the gradient, which stands for the derivative of a step function; None for 1 everywhere."""

    def __call__(self, rows: Tensor, low: Tensor, high: Tensor) -> Tensor | None: ...


@dataclass(frozen=True)
class StraightThroughSurrogate:
    """The gradient passes unchanged."""

    def __call__(self, rows: Tensor, low: Tensor, high: Tensor) -> Tensor | None:
        return None


@dataclass(frozen=True)
class ClippedStraightThrough:
    """The gradient passes unchanged within the range, and is 0 outside.

    Args:
        inclusive: whether the ends belong to the range; False is the derivative of PyTorch's `hardtanh`.
    """

    inclusive: bool = True

    def __call__(self, rows: Tensor, low: Tensor, high: Tensor) -> Tensor | None:
        inside = (rows >= low) & (rows <= high) if self.inclusive else (rows > low) & (rows < high)
        return inside.to(rows.dtype)


@dataclass(frozen=True)
class MagnitudeAware:
    """The gradient passes unchanged within the range, and times clip(x) / x outside: s / |x| in a range of +-s.

    It is the derivative of x * (clip(x) / x) with the quotient held constant, so clipped values still move.

    Paper: Optimal Clipping and Magnitude-aware Differentiation for Improved Quantization-aware Training, arXiv
    2206.06501.
    """

    def __call__(self, rows: Tensor, low: Tensor, high: Tensor) -> Tensor | None:
        clipped = rows.clamp(low, high)
        # 0 / 0 is no case of its own: where a value is 0, it lies inside or its factor is not meant to be infinite.
        ratio = (clipped / torch.where(rows == 0, 1.0, rows)).clamp(min=0)
        return torch.where(clipped == rows, 1.0, ratio)


@dataclass(frozen=True)
class WindowSurrogate:
    """The gradient passes times `height` where low < x <= high, a window that is fixed, and is 0 elsewhere.

    Args:
        low: end of the window that does not belong to it.
        high: end of the window that does.
        height: the factor inside.

    Raises:
        UsageError: a number that is not finite, or an empty window.
    """

    low: float
    high: float
    height: float = 1.0

    def __post_init__(self) -> None:
        for name in ("low", "high", "height"):
            check_number(name, getattr(self, name))
        if self.low >= self.high:
            raise UsageError(f"the window from {self.low} to {self.high} is empty: low must be below high")

    def __call__(self, rows: Tensor, low: Tensor, high: Tensor) -> Tensor | None:
        return ((rows > self.low) & (rows <= self.high)).to(rows.dtype) * self.height
