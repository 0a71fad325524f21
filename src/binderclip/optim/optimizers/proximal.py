"""Proximal gradient descent for l1 penalties: weights that should be zero are zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from binderclip.numeric import check_number

__all__ = ["ProximalSGD", "soft_threshold"]


def soft_threshold(x: Float[Tensor, "..."], threshold: float | Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Shrink towards 0 by a threshold; what is not farther from 0 becomes exactly 0. The proximal map of threshold |x|.

    Args:
        x: any shape.
        threshold: at least 0; a tensor broadcasts.
    """
    bound = torch.as_tensor(threshold, dtype=x.dtype, device=x.device)
    return x - x.clamp(-bound, bound)


class ProximalSGD(Optimizer):
    """Minimises loss + l1 * |w|_1: a step of SGD on the loss alone, then `soft_threshold(w, lr * l1)`.

    Leave the penalty out of the loss that is differentiated. Plain SGD or Adam on loss + l1 |w|_1 use sign(w) as a
    gradient and oscillate around 0 instead of reaching it: they leave no zeros, and a larger penalty can leave a larger
    norm. Parameters without a gradient stay as they are.

    Args:
        params: parameters or groups; a group's own `l1`, such as 0 for biases, replaces the default.
        lr: learning rate; below 2 / (largest curvature of the loss) for convergence.
        l1: weight of the penalty.
        momentum: times the last change of the weights is added before the threshold (iPiano); without a penalty this is
            SGD's momentum. A buffer of gradients would solve for l1 * (1 - momentum) instead.

    Raises:
        UsageError: a negative or not finite lr or l1, or a momentum outside [0, 1).

    Examples:
        >>> w = torch.nn.Parameter(torch.tensor([1.0, 0.05]))
        >>> optimizer = ProximalSGD([w], lr=0.1, l1=1.0)
        >>> w.sum().mul(0).backward()
        >>> optimizer.step()
        >>> w.tolist()
        [0.8999999761581421, 0.0]

    Paper: GD doesn't make the cut: Three ways that non-differentiability affects neural network training (arXiv
    2401.08426); the method is Daubechies, Defrise and De Mol's (ISTA), 2004.
    """

    def __init__(self, params: Any, lr: float = 1e-3, *, l1: float = 0.0, momentum: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "l1": l1, "momentum": momentum})
        for group in self.param_groups:
            check_number("lr", group["lr"], least=0)
            check_number("l1", group["l1"], least=0)
            check_number("momentum", group["momentum"], least=0, below=1)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """A step.

        Args:
            closure: evaluates the loss, without the penalty, and its gradient first.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                before = p.clone() if momentum else None
                p.sub_(lr * p.grad)
                if before is not None:
                    previous = self.state[p].get("previous")
                    if previous is not None:
                        p.add_(before - previous, alpha=momentum)
                    self.state[p]["previous"] = before
                p.sub_(p.clamp(-lr * group["l1"], lr * group["l1"]))
        return loss
