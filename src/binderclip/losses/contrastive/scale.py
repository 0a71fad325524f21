"""The logit scale (inverse temperature) and the bias of the sigmoid loss."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError

__all__ = ["LogitScale"]


class _Ceiling(torch.autograd.Function):
    """min(x, top) whose gradient still lets x come down once it has passed the top."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, top: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.top = top
        return x.clamp(max=top)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return torch.where(x > ctx.top, grad.clamp(min=0.0), grad), None


class LogitScale(nn.Module):
    """A positive scale that multiplies the similarities, learned as its logarithm, and an optional bias.

    A plain clamp has gradient 0 beyond its bound, and a scale that once overshoots would be stuck there; here the
    gradient that brings it back is kept.

    Args:
        init: initial scale, not its logarithm (1/0.07 is CLIP's, 10 is SigLIP's).
        max: largest scale ever used; None for no bound.
        learnable: whether the scale (and the bias) are trained.
        bias: initial bias added to the logits, for the sigmoid loss (SigLIP: -10); None for none.
    """

    def __init__(
        self, init: float = 1 / 0.07, max: float | None = 100.0, *, learnable: bool = True, bias: float | None = None
    ) -> None:
        super().__init__()
        if not init > 0:
            raise UsageError(f"the initial logit scale must be positive, got {init}")
        if max is not None and max < init * (1 - 1e-6):
            raise UsageError(f"the largest logit scale, {max}, lies below the initial one, {init}")
        self.max = max
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
        parameter = getattr(model, "logit_scale", None)
        if not isinstance(parameter, nn.Parameter):
            raise UsageError(f"{type(model).__name__} has no parameter 'logit_scale': make a LogitScale() instead")
        scale = cls(1.0, None)
        scale.max, scale.logit_scale = max, parameter
        scale.logit_bias = getattr(model, "logit_bias", None)
        return scale

    @property
    def value(self) -> Float[Tensor, ""]:
        """The scale itself, at most `max`."""
        log = self.logit_scale
        if self.max is not None:
            log = _Ceiling.apply(log, math.log(self.max))
        return log.exp()

    def forward(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""] | None]:
        """Scale and bias (None where there is none)."""
        return self.value, self.logit_bias
