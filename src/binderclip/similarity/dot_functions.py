"""From dot products to similarities: the functions that geometries are made of, with their derivatives."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

__all__ = ["DotFunction", "NegativeArc", "NegativeArcosh", "NegativeRoot"]


@runtime_checkable
class DotFunction(Protocol):
    """f of a geometry: from dot products to similarities, entry by entry, monotonic, with its derivative.

    Attributes:
        rising: whether a larger dot product is more alike.
    """

    rising: bool

    def value(self, u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """f(u), differentiable."""
        ...

    def slope(self, u: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """f'(u), as autograd would give it: 0 where u was clamped."""
        ...


class NegativeArc:
    """-arccos(u), u clamped to the open interval: rounding brings cosines of parallel vectors to 1 and beyond."""

    rising = True

    @staticmethod
    def _bound(u: Tensor) -> float:
        return 1 - 4 * torch.finfo(u.dtype).eps

    def value(self, u: Tensor) -> Tensor:
        bound = self._bound(u)
        return -u.clamp(-bound, bound).acos()

    def slope(self, u: Tensor) -> Tensor:
        inside = u.abs() <= self._bound(u)
        return torch.where(inside, (1 - u.square()).clamp_min(torch.finfo(u.dtype).tiny).rsqrt(), 0.0)


class NegativeRoot:
    """-sqrt(-u) of the negative squared distance; the root of 0 has no derivative, so distances have a floor."""

    rising = True

    def value(self, u: Tensor) -> Tensor:
        return -(-u).clamp_min(torch.finfo(u.dtype).eps).sqrt()

    def slope(self, u: Tensor) -> Tensor:
        floor = torch.finfo(u.dtype).eps
        return torch.where(-u >= floor, 0.5 * (-u).clamp_min(floor).rsqrt(), 0.0)


class NegativeArcosh:
    """-arccosh(u)^power of the negative Lorentz inner product at curvature -1, u clamped to what lies above 1.

    Args:
        power: 1 or 2.
    """

    rising = False

    def __init__(self, power: int = 1) -> None:
        self.power = power

    @staticmethod
    def _bound(u: Tensor) -> float:
        return 1 + 4 * torch.finfo(u.dtype).eps

    def value(self, u: Tensor) -> Tensor:
        return -u.clamp_min(self._bound(u)).acosh().pow(self.power)

    def slope(self, u: Tensor) -> Tensor:
        above = u.clamp_min(self._bound(u))
        slope = -(above.square() - 1).rsqrt()
        if self.power == 2:
            slope = slope * 2 * above.acosh()
        return torch.where(u >= self._bound(u), slope, 0.0)
