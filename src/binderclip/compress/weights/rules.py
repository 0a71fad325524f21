"""What happens to pruned weights while a model trains: their value in the forward pass, their gradient, their decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = ["SRSTE", "Coefficients", "HardMask", "MaskDecay", "Rule", "StraightThrough", "pruned_weight"]


class Coefficients(NamedTuple):
    """What a pruned weight w with upstream gradient G is worth: `value * w` forward, `gradient * G + decay * w` back.

    A kept weight is always worth w and G; with (1, 1, 0) all weights are, and the layer is dense.
    """

    value: float
    gradient: float
    decay: float = 0.0


DENSE = Coefficients(1.0, 1.0)


@runtime_checkable
class Rule(Protocol):
    """Coefficients of the pruned weights over a training."""

    def at(self, step: int, steps: int) -> Coefficients:
        """At a step of the sparse phase, which takes `steps`; the first is 0."""
        ...

    def last(self) -> Coefficients:
        """After that phase."""
        ...


class _PrunedWeight(torch.autograd.Function):
    """The one function behind all rules; see `pruned_weight`."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, mask: Tensor, coefficients: Tensor, threshold: Tensor | None) -> Tensor:
        kept = weight if threshold is None else weight - weight.sign() * threshold
        return torch.where(mask, kept, weight * coefficients[0])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        weight, mask, coefficients, threshold = inputs
        ctx.save_for_backward(weight, mask, coefficients)
        ctx.threshold_shape = None if threshold is None else threshold.shape

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = upstream
        weight, mask, coefficients = ctx.saved_tensors
        passed = torch.where(mask, gradient, gradient * coefficients[1])
        # d(w - sign(w) T)/dT = -sign(w), through the same gate as the weight's own gradient.
        of_threshold = None
        if ctx.threshold_shape is not None:
            of_threshold = -(passed * weight.sign()).sum_to_size(ctx.threshold_shape)
        return torch.where(mask, passed, passed + coefficients[2] * weight), None, None, of_threshold


def pruned_weight(
    weight: Float[Tensor, "*shape"],
    mask: Bool[Tensor, "*shape"],
    coefficients: Coefficients | Float[Tensor, "3"],
    threshold: Float[Tensor, "..."] | None = None,
) -> Float[Tensor, "*shape"]:
    """The weight that a layer computes with, and the gradient that the dense weight behind it gets.

    Forward: `weight` where the mask is true, less the threshold towards zero where one is given, `value * weight`
    elsewhere. Backward, from the upstream gradient G: G where the mask is true, `gradient * G + decay * weight`
    elsewhere; the threshold gets minus the sum of the gated G * sign(weight).

    Args:
        weight: dense weights.
        mask: true for those that are kept, as in `torch.nn.utils.prune`.
        coefficients: of the pruned ones; a tensor of (value, gradient, decay) is not read by the host.
        threshold: that of a soft threshold; broadcasts to the weight's shape.
    """
    if isinstance(coefficients, Coefficients):
        coefficients = torch.tensor(coefficients, dtype=weight.dtype, device=weight.device)
    applied: Tensor = _PrunedWeight.apply(weight, mask, coefficients.to(weight.dtype), threshold)
    return applied


@dataclass(frozen=True)
class HardMask:
    """Pruned weights are 0 and get no gradient, as under `torch.nn.utils.prune`."""

    def at(self, step: int, steps: int) -> Coefficients:
        """(0, 0, 0) throughout."""
        return Coefficients(0.0, 0.0)

    def last(self) -> Coefficients:
        """(0, 0, 0)."""
        return Coefficients(0.0, 0.0)


@dataclass(frozen=True)
class StraightThrough:
    """Pruned weights are 0 and get the gradient of kept ones, so that they may come back (Bengio, arXiv 1308.3432)."""

    def at(self, step: int, steps: int) -> Coefficients:
        """(0, 1, 0) throughout."""
        return Coefficients(0.0, 1.0)

    def last(self) -> Coefficients:
        """(0, 1, 0)."""
        return Coefficients(0.0, 1.0)


@dataclass(frozen=True)
class SRSTE:
    """Straight-through with a decay of the pruned weights: their gradient is G + decay * w, which settles the mask.

    Args:
        decay: lambda, per step; 2e-4 in all experiments of the paper. 0 is `StraightThrough`.

    Raises:
        UsageError: a negative decay, or NaN.

    Paper: Learning N:M Fine-grained Structured Sparse Neural Networks From Scratch (arXiv 2102.04010); a baseline of
    Progressive Gradient Flow for Robust N:M Sparsity Training in Transformers (arXiv 2402.04744).
    """

    decay: float = 2e-4

    def __post_init__(self) -> None:
        check_number("decay", self.decay, least=0)

    def at(self, step: int, steps: int) -> Coefficients:
        """(0, 1, decay) throughout."""
        return Coefficients(0.0, 1.0, self.decay)

    def last(self) -> Coefficients:
        """(0, 1, decay)."""
        return self.at(0, 1)


@dataclass(frozen=True)
class MaskDecay:
    """Fade pruned weights out instead of cutting them (MdGf): they are worth beta_t * w, beta_t from 1 to 0.

    Args:
        shape: "linear", beta_t = max(0, 1 - rate * t), or "exp", beta_t = exp(-rate * t), at step t of the phase.
        rate: a step; the published ViT run has 1e-4. None ends a linear decay at 0.6 of the phase (1 / (0.6 steps)),
            and brings an exponential one to exp(-5) at its end (5 / steps).
        backward: "masked", the gradient fades with the weight (beta_t * G, the product rule), as the paper argues;
            "straight_through", it stays G, as in the released code.

    Raises:
        UsageError: an unknown shape or backward, or a rate that is not positive.

    Paper: Progressive Gradient Flow for Robust N:M Sparsity Training in Transformers (arXiv 2402.04744).
    """

    shape: Literal["linear", "exp"] = "linear"
    rate: float | None = None
    backward: Literal["masked", "straight_through"] = "masked"

    def __post_init__(self) -> None:
        check_choice("shape", self.shape, ("linear", "exp"))
        check_choice("backward", self.backward, ("masked", "straight_through"))
        if self.rate is not None:
            check_number("rate", self.rate, above=0)

    def at(self, step: int, steps: int) -> Coefficients:
        """(beta_t, beta_t, 0), or (beta_t, 1, 0)."""
        rate = self.rate
        if self.shape == "linear":
            beta = max(0.0, 1.0 - (1 / (0.6 * max(steps, 1)) if rate is None else rate) * step)
        else:
            beta = math.exp(-(5 / max(steps, 1) if rate is None else rate) * step)
        return self._with(beta)

    def last(self) -> Coefficients:
        """The plain binary mask."""
        return self._with(0.0)

    def _with(self, beta: float) -> Coefficients:
        return Coefficients(beta, beta if self.backward == "masked" else 1.0)
