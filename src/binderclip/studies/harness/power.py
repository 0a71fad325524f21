"""Intervals of paired differences, and the smallest effect that a design can detect."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from binderclip.errors import UsageError

LEAST_SEEDS, LEAST_ITEMS = 8, 200
RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """An effect with its 95 % interval.

    Attributes:
        effect: the mean.
        low, high: the interval.
        n: seeds or items behind it.
        how: such as `paired t over seeds`.
    """

    effect: float
    low: float
    high: float
    n: int
    how: str


@dataclass(frozen=True)
class Pilot:
    """What a pilot said about the spread; its seeds are never used again.

    Attributes:
        spread: standard deviation of the paired difference over seeds, or over items.
        seeds: of the pilot.
    """

    spread: float
    seeds: tuple[int, ...]


def t_interval(differences: Float[np.ndarray, "S"], how: str = "paired t over seeds") -> Estimate:
    """Mean of paired differences with its 95 % interval by Student's t; unbounded for a single one."""
    from scipy.stats import t

    n = len(differences)
    mean = float(np.mean(differences))
    if n < 2:
        return Estimate(mean, -math.inf, math.inf, n, how)
    half = float(t.ppf(0.975, n - 1) * np.std(differences, ddof=1) / math.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n, how)


def bootstrap_interval(differences: Float[np.ndarray, "N"], seed: int = 0) -> Estimate:
    """Mean of paired differences with its 95 % percentile bootstrap interval over items.

    Args:
        differences: one an item.
        seed: of the 10,000 resamples.
    """
    generator = np.random.default_rng(seed)
    n = len(differences)
    means = np.concatenate(
        [differences[generator.integers(0, n, (RESAMPLES // 10, n))].mean(axis=1) for _ in range(10)]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Estimate(float(differences.mean()), float(low), float(high), n, "paired bootstrap over items")


def smallest_detectable(spread: float, n: int, power: float = 0.8) -> float:
    """The smallest true effect whose 95 % interval lies above zero with probability `power`, by the noncentral t.

    Args:
        spread: standard deviation of the paired difference.
        n: seeds or items, at least 2.
        power: in (0.025, 1).

    Raises:
        UsageError: fewer than two, a negative spread, or a power outside.
    """
    from scipy.optimize import brentq
    from scipy.stats import nct, t

    if n < 2 or spread < 0 or not 0.025 < power < 1:
        raise UsageError(f"smallest_detectable(spread={spread:g}, n={n}, power={power:g}): n >= 2, .025 < power < 1")
    if spread == 0:
        return 0.0
    critical = t.ppf(0.975, n - 1)
    centre = brentq(lambda shift: nct.sf(critical, n - 1, shift) - power, 0.0, 2 * critical + 20)
    return float(spread * centre / math.sqrt(n))
