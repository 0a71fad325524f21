"""The parametrization that makes a layer compute with a pruned weight while it keeps the dense one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.utils import parametrize

from binderclip.compress.weights.rules import DENSE, Coefficients, pruned_weight
from binderclip.errors import UsageError

if TYPE_CHECKING:
    from binderclip.compress.weights.nm import Pattern

__all__ = ["SparseWeight", "finalize_sparse", "sparse_weights", "take_off"]


class SparseWeight(nn.Module):
    """A parametrization for `torch.nn.utils.parametrize`: dense weight in, pruned weight out.

    In training mode the mask is chosen anew at each call from the dense weight, unless it is frozen; in evaluation mode
    the last mask is used. Mask and coefficients are buffers, so that checkpoints and averages of a model have them.

    Args:
        weight: the dense weight.
        pattern: what is kept; None for a mask that is set by hand and starts with everything.
        threshold: logit of a learned soft threshold, broadcast to the weight's shape; the mask is then |w| > sigmoid of
            it, and the pattern is not asked.
    """

    mask: Bool[Tensor, "..."]
    coefficients: Float[Tensor, "3"]

    def __init__(
        self, weight: Float[Tensor, "*shape"], pattern: Pattern | None = None, threshold: Tensor | None = None
    ) -> None:
        super().__init__()
        self.pattern = pattern
        self.frozen = False
        self.threshold = None if threshold is None else nn.Parameter(threshold)
        self.register_buffer("mask", torch.ones_like(weight, dtype=torch.bool))
        self.register_buffer("coefficients", torch.tensor(DENSE, dtype=torch.float32, device=weight.device))

    def set(self, coefficients: Coefficients) -> None:
        """Change what pruned weights are worth."""
        self.coefficients.copy_(torch.tensor(coefficients))

    @torch.no_grad()
    def renew(self, weight: Float[Tensor, "*shape"]) -> None:
        """Choose the mask anew; a frozen one of a learned threshold may only lose weights, any other stays."""
        if self.threshold is not None:
            above = weight.abs() > self.threshold.sigmoid()
            self.mask.copy_(above & self.mask if self.frozen else above)
        elif self.pattern is not None and not self.frozen:
            self.mask.copy_(self.pattern.mask(weight))

    def forward(self, weight: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """The pruned weight."""
        if self.training:
            self.renew(weight)
        # A copy: the buffer is written again by the next call, before this one's backward pass where a layer is shared.
        mask, threshold = self.mask.clone(), None
        if self.threshold is not None:
            threshold = self.threshold.sigmoid()
            mask &= weight.detach().abs() > threshold.detach()  # evaluated after a step, a weight may lie below it
        return pruned_weight(weight, mask, self.coefficients, threshold)


def sparse_weights(model: nn.Module) -> dict[str, tuple[nn.Module, SparseWeight]]:
    """The layers of a model whose weight is a `SparseWeight`, by name, each with it."""
    return {
        name: (module, module.parametrizations.weight[0])  # type: ignore[index,union-attr]
        for name, module in model.named_modules()
        if parametrize.is_parametrized(module, "weight") and isinstance(module.parametrizations.weight[0], SparseWeight)  # type: ignore[index,union-attr]
    }


def finalize_sparse(model: nn.Module) -> nn.Module:
    """Make the pruned weights of a model its weights: plain layers with exact zeros, under their plain names.

    For a copy of a model in sparse training, such as `FitResult.ema.module`; the model that was trained has
    `SparseTraining.finalize`, which chooses the masks by its last weights first.

    Args:
        model: changed in place.

    Returns:
        The model.

    Raises:
        UsageError: no layer of it is in sparse training.
    """
    layers = sparse_weights(model)
    if not layers:
        raise UsageError("no layer of this model is in sparse training")
    for module, weight in layers.values():
        weight.eval()  # the mask stays as it is
        take_off(module)
    return model


def take_off(module: nn.Module, name: str = "weight", *, baked: bool = True) -> None:
    """Remove the parametrization of a layer's weight.

    Args:
        module: the layer.
        name: of the weight.
        baked: leave the weight that it computed with, such as the pruned one; otherwise the one beneath.
    """
    # Torch takes the property off the layer's class, which copies of the layer share: this one gets a class of its own.
    kind = type(module)
    own = {name: value for name, value in vars(kind).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(kind.__name__, kind.__bases__, own)
    parametrize.remove_parametrizations(module, name, leave_parametrized=baked)
