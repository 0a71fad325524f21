"""Mitigation while training: group distributionally robust optimisation, and features that hide an attribute."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from binderclip.errors import UsageError


class GroupDRO(nn.Module):
    """Minimise the loss of the worst group: sum over groups of q_g l_g, where q grows on groups that do badly.

    l_g is the mean loss of group g in the batch. Before each loss q_g <- q_g exp(step_size l_g), divided by their sum;
    a group that is not in the batch keeps its factor of 1. q is state: it is saved with the module.

    Papers: Sagawa et al., Distributionally Robust Neural Networks for Group Shifts (ICLR 2020, arXiv 1911.08731), as
    Fairness and Bias Mitigation in Computer Vision: A Survey (arXiv 2408.02464) has it.

    Args:
        groups: G. With a spurious attribute, a group is a combination of class and attribute.
        step_size: of q; 0 is the mean over groups, each as often as any other.

    Attributes:
        q: (G,) weights that sum to 1.

    Raises:
        UsageError: fewer than two groups, or a step size below 0.

    Examples:
        >>> robust = GroupDRO(2, step_size=1.0)
        >>> robust(torch.tensor([0.0, 2.0]), torch.tensor([0, 1])) > 1
        tensor(True)
    """

    q: Float[Tensor, "G"]

    def __init__(self, groups: int, *, step_size: float = 0.01) -> None:
        super().__init__()
        if groups < 2 or not step_size >= 0:
            raise UsageError(f"groups is {groups}, at least 2; step_size is {step_size}, at least 0")
        self.step_size = float(step_size)
        self.register_buffer("q", torch.full((groups,), 1 / groups))

    def forward(self, losses: Float[Tensor, "B"], groups: Int[Tensor, "B"]) -> Float[Tensor, ""]:
        """The weighted loss of a batch.

        Args:
            losses: of each sample, such as `cross_entropy(..., reduction="none")`.
            groups: of each sample, from 0.

        Raises:
            UsageError: not one group a sample, an empty batch, or a group outside.
        """
        count = len(self.q)
        if losses.ndim != 1 or losses.shape != groups.shape or not len(losses):
            raise UsageError(f"losses and groups must be (B,), B > 0; got {tuple(losses.shape)}, {tuple(groups.shape)}")
        if not bool(((groups >= 0) & (groups < count)).all()):
            raise UsageError(f"groups must lie from 0 to {count - 1}")
        one = nn.functional.one_hot(groups.long(), count).to(losses)  # (B, G)
        number = one.sum(dim=0)
        mean = (losses @ one) / number.clamp_min(1)  # (G,), 0 where a group is not there
        if self.training:
            # in the logarithm, so that a large loss does not overflow
            raised = self.q.clamp_min(torch.finfo(self.q.dtype).tiny).log() + self.step_size * mean.detach().to(self.q)
            self.q = torch.softmax(raised, dim=0)
        return (self.q.to(mean) * mean).sum()


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, strength: float) -> Tensor:
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return -ctx.strength * grads[0], None


def reverse_gradient(x: Float[Tensor, "*B D"], strength: float = 1.0) -> Float[Tensor, "*B D"]:
    """The same values, whose gradient is turned round: features before it unlearn what a head behind it learns.

    An attribute's classifier on `reverse_gradient(features)` is trained by its own loss, added to that of the task; the
    features are then trained to hide the attribute.

    Papers: Ganin and Lempitsky, Unsupervised Domain Adaptation by Backpropagation (ICML 2015, arXiv 1409.7495), as
    adversarial removal in Fairness and Bias Mitigation in Computer Vision: A Survey (arXiv 2408.02464).

    Args:
        x: features.
        strength: factor of the reversed gradient; 0 hides nothing.

    Raises:
        UsageError: a strength below 0 or not finite.
    """
    if not 0 <= strength < float("inf"):
        raise UsageError(f"strength is {strength}; it is finite and at least 0")
    return _Reversed.apply(x, float(strength))
