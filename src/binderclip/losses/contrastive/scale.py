"""The logit scale (inverse temperature) and the bias of the sigmoid loss."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.similarity.bounds import between

__all__ = ["AlignmentScale", "LogitScale"]


class LogitScale(nn.Module):
    """A positive scale that multiplies the similarities, learned as its logarithm, and an optional bias.

    A plain clamp has gradient 0 beyond its bound, and a scale that once overshoots would be stuck there; here the
    gradient that brings it back is kept. A scale far below 1 makes every softmax even, and hardly anything is learned:
    CLIP's code holds it at 1 at least.

    Args:
        init: initial scale, not its logarithm (1/0.07 is CLIP's, 10 is SigLIP's).
        max: largest scale ever used; None for no bound.
        min: smallest scale ever used; None for no bound.
        learnable: whether the scale (and the bias) are trained.
        bias: initial bias added to the logits, for the sigmoid loss (SigLIP: -10); None for none.
    """

    def __init__(
        self,
        init: float = 1 / 0.07,
        max: float | None = 100.0,
        *,
        min: float | None = None,
        learnable: bool = True,
        bias: float | None = None,
    ) -> None:
        super().__init__()
        if not init > 0:
            raise UsageError(f"the initial logit scale must be positive, got {init}")
        if max is not None and max < init * (1 - 1e-6):
            raise UsageError(f"the largest logit scale, {max}, lies below the initial one, {init}")
        if min is not None and not 0 < min <= init * (1 + 1e-6):
            raise UsageError(f"the smallest logit scale, {min}, must be positive and at most the initial one, {init}")
        self.max, self.min = max, min
        self.logit_scale = nn.Parameter(torch.tensor(math.log(init)), requires_grad=learnable)
        self.logit_bias = None if bias is None else nn.Parameter(torch.tensor(float(bias)), requires_grad=learnable)

    @classmethod
    def of(cls, model: nn.Module, max: float | None = 100.0) -> LogitScale:
        """The scale that shares `model.logit_scale` (a logarithm) and `model.logit_bias`: trained and saved once.

        Args:
            model: an open_clip model or anything with these attributes.
            max: largest scale ever used.

        Raises:
            UsageError: the model has no `logit_scale` parameter.
        """
        scale = cls(1.0, None)
        scale.max = max
        scale.take(model)
        return scale

    def take(self, model: nn.Module) -> None:
        """Use the model's `logit_scale` and `logit_bias` from now on; the largest scale and the rule stay.

        Args:
            model: an open_clip model or anything with these attributes.

        Raises:
            UsageError: the model has no `logit_scale` parameter.
        """
        parameter = getattr(model, "logit_scale", None)
        if not isinstance(parameter, nn.Parameter):
            raise UsageError(f"{type(model).__name__} has no parameter 'logit_scale': make a LogitScale() instead")
        self.logit_scale = parameter
        self.logit_bias = getattr(model, "logit_bias", None)

    @property
    def value(self) -> Float[Tensor, ""]:
        """The scale itself, between `min` and `max`."""
        low = -math.inf if self.min is None else math.log(self.min)
        high = math.inf if self.max is None else math.log(self.max)
        log: Tensor = between(self.logit_scale, low, high)
        return log.exp()

    @torch.no_grad()
    def settle(self) -> None:
        """Put the learned number itself between the bounds, in place, for whoever uses it without them."""
        low = None if self.min is None else math.log(self.min)
        high = None if self.max is None else math.log(self.max)
        if low is not None or high is not None:
            self.logit_scale.clamp_(low, high)

    def forward(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
        """Scale and bias (None where there is none)."""
        return self.value, self.logit_bias


class AlignmentScale(LogitScale):
    """A logit scale that falls as the positives align: tau = tau0 (1 + alpha (A - a0)), A the mean cosine of positives.

    While positives are far apart tau is small and hard negatives are pushed hardest; once positives are close tau is
    larger and negatives that mean the same are left in peace. A is that of the whole batch and carries no gradient.

    Args:
        tau0: temperature at A = a0; the scale that is learned, where it is, is its inverse.
        alpha: how far tau follows the alignment, in [0, 1]; 0 keeps tau0.
        a0: alignment at which tau is tau0, in [0, 1].
        learnable: whether tau0 is trained.
        max: largest inverse of tau0 ever used; None for no bound.

    Raises:
        UsageError: a setting out of its range.

    Paper: Model-Aware Contrastive Learning: Towards Escaping the Dilemmas (arXiv 2207.07874).
    """

    LEAST = 1e-2
    """Of tau / tau0, which would not be positive where a0 - A exceeds 1 / alpha."""

    def __init__(
        self,
        tau0: float = 0.1,
        alpha: float = 0.5,
        a0: float = 0.0,
        *,
        learnable: bool = False,
        max: float | None = None,
    ) -> None:
        check_number("tau0", tau0, above=0)
        if not (0 <= alpha <= 1 and 0 <= a0 <= 1):
            raise UsageError(f"alpha and a0 must lie in [0, 1], got alpha {alpha} and a0 {a0}")
        super().__init__(1 / tau0, max, learnable=learnable)
        self.alpha, self.a0 = alpha, a0

    def extra_repr(self) -> str:
        return f"alpha={self.alpha}, a0={self.a0}"

    def relative_tau(self, alignment: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """tau / tau0 at a mean cosine of the positives (equation 7), without a gradient."""
        return (1 + self.alpha * (alignment.detach() - self.a0)).clamp_min(self.LEAST)
