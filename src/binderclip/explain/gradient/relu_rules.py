"""Three ways to go back through a ReLU: the gradient, the deconvnet's, and both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from binderclip.errors import NotSupported, UsageError

ReluRule = Literal["gradient", "deconv", "guided"]


class _RuledReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, ceiling: float, rule: str) -> Tensor:
        ctx.save_for_backward(x)
        ctx.ceiling, ctx.rule = ceiling, rule
        return x.clamp(0, ceiling)

    @staticmethod
    def backward(ctx: Any, signal: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        if ctx.rule != "gradient":
            signal = signal.clamp(min=0)
        if ctx.rule != "deconv":
            signal = signal * ((x > 0) & (x < ctx.ceiling))
        return signal, None, None


@contextmanager
def relu_rule(model: Any, rule: ReluRule) -> Iterator[None]:
    """Send gradients back through every `nn.ReLU` and `nn.ReLU6` of `model` by a rule, while the context is open.

    `gradient` keeps the signal where the forward input was positive, `deconv` where the backward signal is, `guided`
    where both are. Convolutions and poolings go back alike in all three.

    Raises:
        UsageError: an unknown rule.
        NotSupported: another rule than `gradient` for a model without such modules.

    Paper: Deep Inside Convolutional Networks (arXiv 1312.6034), section 4.
    """
    if rule not in ("gradient", "deconv", "guided"):
        raise UsageError(f"relu_rule must be gradient, deconv or guided, not {rule!r}")
    if rule == "gradient":
        yield
        return
    modules = []
    if isinstance(model, nn.Module):
        modules = [module for module in model.modules() if type(module) in (nn.ReLU, nn.ReLU6)]
    if not modules:
        raise NotSupported(f"relu_rule={rule!r} needs nn.ReLU modules; {type(model).__name__} has none")
    try:
        for module in modules:
            ceiling = 6.0 if isinstance(module, nn.ReLU6) else float("inf")
            # On the instance: an in-place ReLU's own forward would already have overwritten its input for a hook.
            module.forward = lambda x, c=ceiling: _RuledReLU.apply(x, c, rule)
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)
