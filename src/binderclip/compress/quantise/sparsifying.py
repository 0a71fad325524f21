"""Activations that are mostly zero and bounded, and the initialisation at which deep networks of them are stable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from binderclip.errors import UsageError
from binderclip.numeric import check_number
from binderclip.settings import check_choice

__all__ = ["ClippedReLU", "ClippedSoftThreshold", "CriticalInit", "critical_init"]


class _ClippedThreshold(nn.Module):
    def __init__(self, tau: float, m: float = math.inf) -> None:
        super().__init__()
        check_number("tau", tau, least=0)
        check_number("m", m, above=0, infinite=True)
        self.tau, self.m = float(tau), float(m)

    def extra_repr(self) -> str:
        """The settings."""
        return f"tau={self.tau:g}, m={self.m:g}"


class ClippedReLU(_ClippedThreshold):
    """clip(x - tau, 0, m): zero up to the threshold, then linear, then bounded.

    Args:
        tau: the threshold, at least 0, in the unit of the pre-activations.
        m: the largest output, above 0; infinite by default, the shifted ReLU.

    Raises:
        UsageError: a setting out of range.

    Examples:
        >>> ClippedReLU(1.0, 2.0)(torch.tensor([-3.0, 1.5, 9.0])).tolist()
        [0.0, 0.5, 2.0]

    Paper: Deep Neural Network Initialization with Sparsity Inducing Activations, arXiv 2402.16184.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Outputs in [0, m]."""
        return (x - self.tau).clamp(0, self.m)


class ClippedSoftThreshold(_ClippedThreshold):
    """sign(x) clip(|x| - tau, 0, m): zero up to the threshold on both sides, then linear, then bounded.

    Args:
        tau: the threshold, at least 0, in the unit of the pre-activations.
        m: the largest magnitude, above 0; infinite by default, the soft threshold.

    Raises:
        UsageError: a setting out of range.

    Paper: Deep Neural Network Initialization with Sparsity Inducing Activations, arXiv 2402.16184.
    """

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Outputs in [-m, m]."""
        return (x - x.clamp(-self.tau, self.tau)).clamp(-self.m, self.m)


@dataclass(frozen=True)
class CriticalInit:
    """Where wide networks of a sparsifying activation neither shrink nor stretch small differences.

    Attributes:
        kind: `relu` or `soft`.
        tau: threshold of the activation.
        m: its largest magnitude.
        weight_variance: of a weight times its fan-in.
        bias_variance: of a bias.
        variance: of the pre-activations, the fixed point of the variance map V.
        slope: V' there; below 1 the fixed point is stable.
        curvature: V'' there; where V' is 1, above 0 means that larger variances diverge.
        sparsity: predicted share of zeros.
    """

    kind: Literal["relu", "soft"]
    tau: float
    m: float
    weight_variance: float
    bias_variance: float
    variance: float
    slope: float
    curvature: float
    sparsity: float

    def activation(self) -> ClippedReLU | ClippedSoftThreshold:
        """The activation of these settings."""
        return ClippedReLU(self.tau, self.m) if self.kind == "relu" else ClippedSoftThreshold(self.tau, self.m)

    def apply_(self, layer: nn.Module, generator: torch.Generator | None = None) -> None:
        """Draw weights and biases of a linear or convolutional layer anew.

        Args:
            layer: changed in place; normal weights of variance `weight_variance` over the fan-in.
            generator: of the draws; default PyTorch's own.

        Raises:
            UsageError: a layer without a weight of at least two dimensions, or without a bias where biases vary.
        """
        weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
        if not isinstance(weight, Tensor) or weight.ndim < 2:
            raise UsageError(f"{type(layer).__name__} has no weight of at least two dimensions to draw")
        if bias is None and self.bias_variance > 1e-12:
            raise UsageError(f"the biases have a variance of {self.bias_variance:.3g}: make the layer with bias=True")
        fan_in = weight[0].numel()
        with torch.no_grad():
            weight.normal_(0, math.sqrt(self.weight_variance / fan_in), generator=generator)
            if bias is not None:
                bias.normal_(0, math.sqrt(self.bias_variance), generator=generator)

    def variance_map(self, variance: float) -> float:
        """V: the variance of the next layer's pre-activations.

        Args:
            variance: of this layer's, above 0.

        Raises:
            UsageError: a variance that is not above 0.
        """
        check_number("variance", variance, above=0)
        moment, _, _ = _moments(self.kind, self.tau, self.m, variance)
        return self.weight_variance * moment + self.bias_variance


def _normal(x: float) -> tuple[float, float]:
    """Density at x and probability above x of a standard normal value; no density at infinity."""
    if math.isinf(x):
        return 0.0, 0.0
    return math.exp(-x * x / 2) / math.sqrt(2 * math.pi), math.erfc(x / math.sqrt(2)) / 2


def _moments(kind: str, tau: float, m: float, variance: float) -> tuple[float, float, float]:
    """E[phi(sqrt(q) Z)^2] and its first two derivatives in q, the variance.

    With t = tau / sqrt(q), M = m / sqrt(q), T = t + M and a(t) = E[(Z - t)_+^2] = (1 + t^2) P(Z > t) - t p(t), one side
    has E = q (a(t) - a(T) - 2 M (p(T) - T P(Z > T))). By dE/dq = E[(phi'^2 + phi phi'')(sqrt(q) Z)] with phi'' a point
    mass of -1 at the clip, where phi = m, dE/dq = P(t < Z < T) - M p(T); the next follows from dt/dq = -t / (2 q).
    """
    deviation = math.sqrt(variance)
    low, height = tau / deviation, m / deviation
    high = low + height
    (p_low, above_low), (p_high, above_high) = _normal(low), _normal(high)
    moment = variance * ((1 + low * low) * above_low - low * p_low)
    first, second = above_low, low * p_low / (2 * variance)
    if math.isfinite(height):
        beyond = (1 + high * high) * above_high - high * p_high + 2 * height * (p_high - high * above_high)
        moment -= variance * beyond
        first -= above_high + height * p_high
        # d/dq of -P(Z > T) - M p(T): with dT/dq = -T / (2 q), dM/dq = -M / (2 q) and p'(T) = -T p(T).
        second += (-high * p_high + height * p_high - height * high * high * p_high) / (2 * variance)
    sides = 1 if kind == "relu" else 2
    return sides * moment, sides * first, sides * second


def critical_init(
    kind: Literal["relu", "soft"],
    sparsity: float,
    m: float = math.inf,
    *,
    variance: float = 1.0,
    v_prime: float | None = None,
) -> CriticalInit:
    """The initialisation at the edge of chaos for an activation of this sparsity: chi_1 = 1 at a fixed point of V.

    The threshold gives the sparsity, the weight variance makes chi_1 = sw2 E[phi'(sqrt(q) Z)^2] = 1, and the bias
    variance makes q a fixed point of V(q) = sw2 E[phi(sqrt(q) Z)^2] + sb2. Without a clip V' is exactly 1 and V'' above
    0, so deep networks blow up; a clip m lowers V'.

    Args:
        kind: `relu` for `ClippedReLU`, `soft` for `ClippedSoftThreshold`.
        sparsity: share of zeros, in [0.5, 1) for `relu` and [0, 1) for `soft`, which have a threshold of at least 0.
        m: the largest magnitude, in the unit of the pre-activations; default none.
        variance: q, of the pre-activations; the input of the network has to have it too.
        v_prime: find the `m` of this V' instead, in (0, 1); about 0.5 to 0.9 is stable and still expressive.

    Raises:
        UsageError: a setting out of range, `m` and `v_prime` together, or a bias variance that would be negative.

    Examples:
        >>> init = critical_init("relu", 0.5)  # He initialisation
        >>> init.weight_variance, round(init.bias_variance, 6)
        (2.0, 0.0)

    Paper: Deep Neural Network Initialization with Sparsity Inducing Activations, arXiv 2402.16184.
    """
    check_choice("kind", kind, ("relu", "soft"))
    check_number("sparsity", sparsity, least=0.5 if kind == "relu" else 0.0, below=1)
    check_number("m", m, above=0, infinite=True)
    check_number("variance", variance, above=0)
    if v_prime is not None:
        check_number("v_prime", v_prime, above=0, below=1)
        if math.isfinite(m):
            raise UsageError("v_prime finds the m that belongs to it: give one of the two")
        low, high = 1e-3, 50.0  # in standard deviations; V' rises with m from 0 to 1
        for _ in range(100):
            m = (low + high) / 2 * math.sqrt(variance)
            low, high = ((low + high) / 2, high) if _critical(kind, sparsity, m, variance).slope < v_prime else (
                low, (low + high) / 2)  # fmt: skip
    result = _critical(kind, sparsity, m, variance)
    if result.bias_variance < -1e-9 * variance:
        raise UsageError(
            f"no biases keep the variance at {variance:g}: sparsity {sparsity:g} and m {m:g} need a bias variance of "
            f"{result.bias_variance:.3g}; take a larger sparsity or a smaller m"
        )
    return result


def _critical(kind: Literal["relu", "soft"], sparsity: float, m: float, variance: float) -> CriticalInit:
    """The initialisation of these settings, whose bias variance may be negative."""
    deviation = math.sqrt(variance)
    quantile = torch.special.ndtri(torch.tensor(sparsity if kind == "relu" else (1 + sparsity) / 2).double())
    tau = deviation * float(quantile)
    sides = 1 if kind == "relu" else 2
    active = sides * (_normal(tau / deviation)[1] - _normal((tau + m) / deviation)[1])
    weight_variance = 1 / active
    moment, first, second = _moments(kind, tau, m, variance)
    bias_variance = variance - weight_variance * moment
    return CriticalInit(
        kind, tau, m, weight_variance, max(bias_variance, 0.0) if bias_variance > -1e-9 * variance else bias_variance,
        variance, weight_variance * first, weight_variance * second, sparsity,
    )  # fmt: skip
