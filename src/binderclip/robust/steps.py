"""How an attack moves: step rules that climb an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.robust.feasible import per_image

ValueAndGradient: TypeAlias = Callable[[Tensor], "tuple[Tensor, Tensor]"]


@runtime_checkable
class Step(Protocol):
    """From parameters to the next ones; may evaluate as often as it likes, and each evaluation counts as a query."""

    def __call__(self, theta: Tensor, value_and_gradient: ValueAndGradient) -> Tensor:
        """The parameters after one step, not yet projected."""


@dataclass(frozen=True)
class _Fixed:
    alpha: float

    def __post_init__(self) -> None:
        if not self.alpha > 0:
            raise UsageError(f"alpha, the step size in the units of the images, must be above 0, got {self.alpha}")


@dataclass(frozen=True)
class Sign(_Fixed):
    """`theta + alpha * sign(gradient)`: the steepest step in the maximum norm.

    Args:
        alpha: step size in the units of the images.
    """

    def __call__(self, theta: Float[Tensor, "B *size"], value_and_gradient: ValueAndGradient) -> Tensor:
        return theta + self.alpha * value_and_gradient(theta)[1].sign()


@dataclass(frozen=True)
class Normalized(_Fixed):
    """`theta + alpha * gradient / |gradient|` for each image: the steepest step in the Euclidean norm.

    Args:
        alpha: step size in the units of the images; an image without a gradient stays where it is.
    """

    def __call__(self, theta: Float[Tensor, "B *size"], value_and_gradient: ValueAndGradient) -> Tensor:
        gradient = value_and_gradient(theta)[1]
        length = gradient.flatten(1).norm(dim=1).clamp(min=1e-30)
        return theta + self.alpha * gradient / per_image(length, theta)


class Adam:
    """Adam's step; it remembers its moments, so that an attack needs one of its own.

    Args:
        alpha: learning rate in the units of the parameters.
        betas: of the moments.

    Raises:
        UsageError: a rate that is not positive.
    """

    def __init__(self, alpha: float = 0.1, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        self._rate, self._betas = _Fixed(alpha).alpha, betas
        self._leaf: Tensor | None = None

    def __call__(self, theta: Float[Tensor, "B *size"], value_and_gradient: ValueAndGradient) -> Tensor:
        """One step; parameters that were projected since the last one are taken up where they are now."""
        gradient = value_and_gradient(theta)[1]
        if self._leaf is None:
            self._leaf = theta.detach().clone()
            self._optimizer = torch.optim.Adam([self._leaf], lr=self._rate, betas=self._betas)
        self._leaf.copy_(theta)
        self._leaf.grad = -gradient
        self._optimizer.step()
        return self._leaf.detach().clone()
