"""How an attack moves: step rules that climb an objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.robust.feasible import per_image

Norm = Literal["linf", "l2"]
LEAST = 1e-30
"""A gradient of this length counts as none."""
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
        check_number("alpha", self.alpha, above=0)


@dataclass(frozen=True)
class Sign(_Fixed):
    """`theta + alpha * sign(gradient)`: the steepest step in the maximum norm.

    Args:
        alpha: step size in the units of the images.
    """

    def __call__(self, theta: Float[Tensor, "B *size"], value_and_gradient: ValueAndGradient) -> Tensor:
        return torch.add(theta, value_and_gradient(theta)[1].sign(), alpha=self.alpha)


@dataclass(frozen=True)
class Normalized(_Fixed):
    """`theta + alpha * gradient / |gradient|` for each image: the steepest step in the Euclidean norm.

    Args:
        alpha: step size in the units of the images; an image without a gradient stays where it is.
    """

    def __call__(self, theta: Float[Tensor, "B *size"], value_and_gradient: ValueAndGradient) -> Tensor:
        gradient = value_and_gradient(theta)[1]
        length = gradient.flatten(1).norm(dim=1).clamp(min=LEAST)
        return theta + self.alpha * gradient / per_image(length, theta)


class Momentum:
    """Steps along a running sum of gradients, each divided by its mean absolute value; an attack needs one of its own.

        g <- decay g + gradient / mean |gradient|;  theta <- theta + alpha sign(g), or + alpha g / |g|

    What all images have in common, the number of their pixels, changes no sign and no direction, so that the mean
    serves as well as the paper's sum.

    Args:
        alpha: step size in the units of the images.
        decay: of the sum, the paper's mu; 0 leaves the last gradient alone.
        norm: `"linf"` steps by the sum's sign, `"l2"` by the sum over its length.

    Raises:
        UsageError: a step size that is not above 0, a negative decay, or an unknown norm.

    Paper: Boosting Adversarial Attacks with Momentum (arXiv 1710.06081).
    """

    def __init__(self, alpha: float, decay: float = 1.0, norm: Norm = "linf") -> None:
        check_number("alpha", alpha, above=0)
        check_number("decay", decay, least=0)
        if norm not in get_args(Norm):
            raise UsageError(f"norm must be {' or '.join(get_args(Norm))}, not {norm!r}")
        self._alpha, self._decay, self._norm = alpha, decay, norm
        self._sum: Tensor | None = None

    def __call__(self, theta: Float[Tensor, "B *size"], value_and_gradient: ValueAndGradient) -> Tensor:
        gradient = value_and_gradient(theta)[1]
        size = gradient.flatten(1).abs().mean(1).clamp(min=LEAST)
        unit = gradient / per_image(size, gradient)
        self._sum = unit if self._sum is None else self._sum.mul_(self._decay).add_(unit)
        if self._norm == "linf":
            return torch.add(theta, self._sum.sign(), alpha=self._alpha)
        length = self._sum.flatten(1).norm(dim=1).clamp(min=LEAST)
        return theta + self._alpha * self._sum / per_image(length, theta)


class Adam:
    """Adam's step; it remembers its moments, so that an attack needs one of its own.

    Args:
        alpha: learning rate in the units of the parameters.
        betas: of the moments, in [0, 1).

    Raises:
        UsageError: a rate that is not positive, or a beta out of range.
    """

    def __init__(self, alpha: float = 0.1, betas: tuple[float, float] = (0.9, 0.999)) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise UsageError(f"betas must lie in [0, 1), got {betas}")
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
