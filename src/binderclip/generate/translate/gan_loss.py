"""What generators and discriminators are trained by, from logits alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from binderclip.settings import check_choice

__all__ = ["GANLoss", "GANMode", "Logits"]

GANMode = Literal["hinge", "lsgan", "nonsaturating", "wgan"]
Logits = Tensor | Sequence[Tensor]
"""Of any shape, or one for each scale of a multi-scale discriminator."""

# What real samples, generated ones, and generated ones that shall pass for real cost, element by element.
_COSTS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "hinge": (lambda x: F.relu(1 - x), lambda x: F.relu(1 + x), torch.neg),
    "lsgan": (lambda x: (x - 1).square(), torch.square, lambda x: (x - 1).square()),
    "nonsaturating": (lambda x: F.softplus(-x), F.softplus, lambda x: F.softplus(-x)),
    "wgan": (torch.neg, lambda x: x, torch.neg),
}


@dataclass(frozen=True)
class GANLoss:
    """An adversarial loss on logits: means over all elements, and over the scales of a multi-scale discriminator.

    Args:
        mode: "hinge" max(0, 1 -+ x), "lsgan" (x - 1)^2 and x^2, "nonsaturating" softplus(-+x), the cross-entropy of a
            sigmoid, or "wgan" -+x, which needs a penalty or a bound that keeps the critic Lipschitz.

    Raises:
        UsageError: another mode.

    Examples:
        >>> float(GANLoss("lsgan").generator(torch.tensor([0.0, 1.0])))
        0.5
    """

    mode: GANMode = "lsgan"

    def __post_init__(self) -> None:
        check_choice("mode", self.mode, _COSTS)

    def real(self, logits: Logits) -> Float[Tensor, ""]:
        """What the discriminator pays for logits of real samples."""
        return _mean(logits, _COSTS[self.mode][0])

    def fake(self, logits: Logits) -> Float[Tensor, ""]:
        """What the discriminator pays for logits of generated, or otherwise wrong, samples."""
        return _mean(logits, _COSTS[self.mode][1])

    def generator(self, logits: Logits) -> Float[Tensor, ""]:
        """What the generator pays for logits of its samples."""
        return _mean(logits, _COSTS[self.mode][2])


def _mean(logits: Logits, cost: Callable[[Tensor], Tensor]) -> Tensor:
    if isinstance(logits, Tensor):
        return cost(logits).mean()
    return torch.stack([cost(one).mean() for one in logits]).mean()
