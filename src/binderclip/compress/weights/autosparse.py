"""AutoSparse: thresholds that are learned, and a gradient of masked weights that is annealed to zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from binderclip.compress.weights.rules import Coefficients
from binderclip.compress.weights.sparse_training import SparseTraining
from binderclip.compress.weights.sparse_weight import SparseWeight
from binderclip.numeric import check_number
from binderclip.optim import param_groups, sigmoid_cosine_decay
from binderclip.optim.schedules import constant, cosine, linear
from binderclip.settings import check_choice

__all__ = ["AutoSparse", "MaskedGradient"]

START = -5.0
"""Logit of a threshold at the start, where it prunes little."""
LEAST_PRUNED = 0.005
"""Share of a layer's weights that may lie below its threshold at the start."""
DECAYS: dict[str, Callable[[float], float]] = {
    "anneal": sigmoid_cosine_decay,
    "cosine": cosine,
    "linear": linear,
    "sigmoid": lambda progress: 1 / (1 + math.exp(12 * progress - 6)),
    "fixed": constant,
}


@dataclass(frozen=True)
class MaskedGradient:
    """Masked weights are 0 and get a share alpha_t of the gradient, annealed over the training and 0 at its end.

    alpha_t = alpha * f(step / steps). It multiplies what the threshold gets from masked weights as well. alpha = 0 is
    plain soft thresholding (STR), a fixed alpha of 1 is straight-through.

    Args:
        shape: f: "anneal" (the larger of cosine and sigmoid), "cosine", "linear", "sigmoid", or "fixed".
        alpha: at the start, in [0, 1]; a larger one leaves the network denser. The paper has about 0.75 for 80 % zeros.
        freeze: share of the steps after which alpha is 0 and masked weights stay so.

    Raises:
        UsageError: an unknown shape, or a number out of range.

    Paper: AUTOSPARSE: Towards Automated Sparse Training of Deep Neural Networks (arXiv 2304.06941).
    """

    shape: Literal["anneal", "cosine", "linear", "sigmoid", "fixed"] = "anneal"
    alpha: float = 0.75
    freeze: float = 0.9

    def __post_init__(self) -> None:
        check_choice("shape", self.shape, DECAYS)
        check_number("alpha", self.alpha, least=0, most=1)
        check_number("freeze", self.freeze, above=0, most=1)

    def frozen(self, step: int, steps: int) -> bool:
        """Whether masked weights stay masked from this step on."""
        return step >= self.freeze * steps

    def at(self, step: int, steps: int) -> Coefficients:
        """(0, alpha_t, 0)."""
        alpha = 0.0 if self.frozen(step, steps) else self.alpha * DECAYS[self.shape](step / steps)
        return Coefficients(0.0, alpha)

    def last(self) -> Coefficients:
        """(0, 0, 0)."""
        return Coefficients(0.0, 0.0)


class AutoSparse(SparseTraining):
    """Train a model whose layers learn their own threshold: w becomes sign(w) max(|w| - sigmoid(T), 0).

    There is no target: how sparse a layer ends follows from the loss and from alpha. Used like `SparseTraining`: build
    it before the optimizer, pass `param_groups()` to `fit` as what to train and the object as a callback, then
    `finalize()`.

    The gradient of w is the upstream G where |w| > sigmoid(T) and alpha_t G elsewhere, at w = 0 as well, where autograd
    through the formula would give 0. That of T is -sigmoid'(T) times the sum of the same G times sign(w).

    Args:
        model: any module.
        gradient: what masked weights get.
        layers: names or shell patterns; None for all linear layers and convolutions but the first and the last.
        threshold: T at the start, a logit; None for -5, or lower where more than 0.5 % of a layer would be pruned.
        per_channel: one T for each output instead of one for a layer.

    Raises:
        UsageError: what `SparseTraining` refuses, or a threshold that is not finite.

    Paper: AUTOSPARSE: Towards Automated Sparse Training of Deep Neural Networks (arXiv 2304.06941).
    """

    def __init__(
        self, model: nn.Module, gradient: MaskedGradient | None = None, *, layers: Iterable[str] | None = None,
        threshold: float | None = None, per_channel: bool = False,
    ) -> None:  # fmt: skip
        if threshold is not None:
            check_number("threshold", threshold)
        self.start, self.per_channel = threshold, per_channel
        self.gradient = MaskedGradient() if gradient is None else gradient
        super().__init__(model, None, self.gradient, layers=layers)

    def _parametrization(self, weight: Tensor) -> SparseWeight:
        logit = self.start
        if logit is None:
            low = weight.abs().flatten().float().kthvalue(max(1, int(LEAST_PRUNED * weight.numel()))).values
            logit = min(START, float(low.clamp(min=1e-30).logit()))
        shape = (weight.shape[0], *[1] * (weight.ndim - 1)) if self.per_channel else ()
        return SparseWeight(weight, None, torch.full(shape, logit, dtype=weight.dtype, device=weight.device))

    def _prepare(self, step: int) -> None:
        """Anneal alpha; from `freeze` on masks can only lose weights."""
        super()._prepare(step)
        frozen = self.gradient.frozen(step, max(1, self.steps))
        for weight in self.weights.values():
            weight.frozen = frozen

    @property
    def thresholds(self) -> dict[str, Tensor]:
        """sigmoid(T) of each layer, in the unit of its weights."""
        return {
            name: weight.threshold.detach().sigmoid()
            for name, weight in self.weights.items()
            if weight.threshold is not None
        }

    def param_groups(
        self, weight_decay: float = 1e-4, *, threshold_decay: float | None = None, threshold_lr_scale: float = 1.0,
        **options: Any,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Parameter groups of the model, the thresholds in one of their own.

        Args:
            weight_decay: of matrices and convolutions.
            threshold_decay: of the thresholds' logits; None for that of the weights, as in the paper. It pulls T to 0,
                that is the threshold to 0.5.
            threshold_lr_scale: share of the learning rate that thresholds get; more than 1 in short trainings.
            options: of `optim.param_groups`.

        Raises:
            UsageError: a negative number, or what `optim.param_groups` refuses.
        """
        decay = weight_decay if threshold_decay is None else threshold_decay
        check_number("threshold_decay", decay, least=0)
        check_number("threshold_lr_scale", threshold_lr_scale, least=0)
        names = [f"{name}.parametrizations.weight.0.threshold" for name in self.weights]
        freeze = [*options.pop("freeze", ()), "*.parametrizations.weight.0.threshold"]
        groups = param_groups(self.model, weight_decay, freeze=freeze, **options)
        learned = [weight.threshold for weight in self.weights.values()]
        group = {"params": learned, "names": names, "weight_decay": decay, "lr_scale": threshold_lr_scale}
        if options.get("lr") is not None:
            group["lr"] = options["lr"] * threshold_lr_scale
        return [*groups, group]
