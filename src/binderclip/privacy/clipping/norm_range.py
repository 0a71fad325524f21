"""The clip norm that the Lipschitz constants of samples suggest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError
from binderclip.privacy.accounting.ledger import Ledger
from binderclip.privacy.accounting.sampling import unseeded_generator

__all__ = ["ClipRange", "clip_norm_range", "per_sample_lipschitz", "private_clip_range", "suggest_clip"]

GRID = (1.0, 0.5, 0.25, 0.1, 0.05)


def per_sample_lipschitz(
    features: Float[Tensor, "N d"], bias: bool = True, *, binary: bool = False
) -> Float[Tensor, "N"]:
    """The bound G_i on sample i's gradient for a softmax layer with cross-entropy, whatever the weights are.

    The gradient is (p - e_y) (x) (h, 1), and ||p - e_y|| <= sqrt(2), so G_i = sqrt(2) * sqrt(||h_i||^2 + 1).
    Das et al., "Beyond Uniform Lipschitz Condition in Differentially Private Optimization", ICML 2023,
    arXiv 2206.10713.

    Args:
        features: h, (N, d). Constants of private features are private.
        bias: whether the layer has one; without it the 1 falls away.
        binary: logistic regression with one output, where |p - y| <= 1 takes the place of sqrt(2).
    """
    norms = (features.square().sum(1) + float(bias)).sqrt()
    return norms if binary else math.sqrt(2) * norms


@dataclass(frozen=True)
class ClipRange:
    """Clip norms worth trying.

    Attributes:
        upper: min_i G_i; above it accuracy stays or falls while the noise grows.
        grid: upper times 1, .5, .25, .1, .05; to be searched together with the learning rate, lr about a / tau.
    """

    upper: float
    grid: tuple[float, ...]


def clip_norm_range(lipschitz: Float[Tensor, "N"]) -> ClipRange:
    """The range (0, min_i G_i] in which to look for the clip norm tau.

    Below every G_i clipping only reweights samples of a convex, interpolated problem and keeps its minimiser.

    Args:
        lipschitz: G_i of features that are PUBLIC, or of unit length (then all are equal and reveal nothing).

    Raises:
        UsageError: empty, or not positive and finite.
    """
    values = torch.as_tensor(lipschitz, dtype=torch.float64)
    if not values.numel() or not bool((values.isfinite() & (values > 0)).all()):
        raise UsageError("lipschitz needs at least one constant, all positive and finite")
    upper = float(values.min())
    return ClipRange(upper, tuple(upper * fraction for fraction in GRID))


def private_clip_range(
    lipschitz: Float[Tensor, "N"],
    ledger: Ledger,
    *,
    lower: float,
    upper: float,
    quantile: float = 0.05,
    multiplier: float = 10.0,
    rounds: int = 8,
    generator: torch.Generator | None = None,
) -> ClipRange:
    """`clip_norm_range` of features that are private: a low quantile of the G_i stands for their minimum.

    The interval [lower, upper] is halved on a logarithmic scale, each time by the noisy sign of (records below its
    middle) - quantile (records). The quantile leaves out the few smallest constants, which are what one record could
    move at will. Every round sees all records and enters the ledger.

    Args:
        lipschitz: G_i of private features.
        ledger: gets `rounds` entries.
        lower, upper: an interval that is sure to hold the quantile, chosen without looking at the data.
        quantile: share of records below the range's end.
        multiplier: noise over the sensitivity of each round, max(quantile, 1 - quantile).
        rounds: halvings.
        generator: of the noise; default seeded by the system.

    Raises:
        UsageError: values out of range.

    Paper: Beyond Uniform Lipschitz Condition in Differentially Private Optimization, arXiv 2206.10713.
    """
    values = torch.as_tensor(lipschitz, dtype=torch.float64)
    if not (0 < lower < upper and 0 < quantile < 1 and multiplier > 0 and rounds >= 1):
        raise UsageError(
            f"private_clip_range needs 0 < lower < upper, quantile in (0, 1), multiplier above 0 and rounds of at "
            f"least 1, got {lower}, {upper}, {quantile}, {multiplier}, {rounds}"
        )
    if not bool(values.isfinite().all()):
        raise UsageError("lipschitz must be finite")
    noise = unseeded_generator() if generator is None else generator
    deviation = multiplier * max(quantile, 1 - quantile)
    low, high = math.log(lower), math.log(upper)
    for _ in range(rounds):
        middle = (low + high) / 2
        excess = float((values < math.exp(middle)).sum()) - quantile * len(values)
        excess += deviation * float(torch.randn((), generator=noise, device=noise.device))
        low, high = (low, middle) if excess > 0 else (middle, high)
    ledger.step(multiplier, 1.0, rounds)
    end = math.exp((low + high) / 2)
    return ClipRange(end, tuple(end * fraction for fraction in GRID))


def suggest_clip(moment_k: float, M: float, n: int, d: int, eps: float, delta: float) -> float:
    """Clip norm for heavy-tailed constants: M * (n * eps / sqrt(d * log(1 / delta)))^(1 / k), an order of magnitude.

    Args:
        moment_k: k of the bounded moment E[G^k] <= M^k. M: its bound.
        n: samples. d: parameters. eps, delta: the budget.

    Raises:
        UsageError: values out of range.
    """
    if not (moment_k > 0 and M > 0 and n > 0 and d > 0 and eps > 0 and 0 < delta < 1):
        raise UsageError("suggest_clip needs positive moment_k, M, n, d, eps and delta in (0, 1)")
    return M * (n * eps / math.sqrt(d * math.log(1 / delta))) ** (1 / moment_k)
