"""How well a score agrees with opinions: the four figures that image quality assessment reports."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from binderclip.errors import UsageError


@dataclass(frozen=True)
class Agreement:
    """Agreement of scores with opinions.

    Attributes:
        srcc: Spearman's rank correlation.
        krcc: Kendall's tau-b.
        plcc: Pearson's correlation after a logistic curve is fitted to the scores.
        rmse: root mean squared error after it, in the unit of the opinions.
    """

    srcc: float
    krcc: float
    plcc: float
    rmse: float


def agreement(
    scores: Float[Tensor, "N"] | Float[np.ndarray, "N"] | Sequence[float],
    opinions: Float[Tensor, "N"] | Float[np.ndarray, "N"] | Sequence[float],
) -> Agreement:
    """Rank correlations, and correlation and error behind a logistic curve of four parameters.

    The curve `(b1 - b2) / (1 + exp(-(x - b3) / |b4|)) + b2` takes away what is monotone between the scales of a metric
    and of opinions; rank correlations need none. A lower-is-better score has negative rank correlations.

    Args:
        scores: of a metric.
        opinions: mean opinion scores.

    Raises:
        UsageError: fewer than four pictures, numbers that differ, are not finite, or are all equal.
    """
    from scipy.optimize import OptimizeWarning, curve_fit
    from scipy.stats import kendalltau, pearsonr, spearmanr

    x, y = (torch.as_tensor(values).detach().cpu().double().numpy() for values in (scores, opinions))
    if x.ndim != 1 or x.shape != y.shape or len(x) < 4:
        raise UsageError(f"scores and opinions must be equally many, at least 4, not {x.shape} and {y.shape}")
    for name, values in (("scores", x), ("opinions", y)):
        if not np.isfinite(values).all() or np.ptp(values) == 0:
            raise UsageError(f"{name} must be finite and not all equal: there is no correlation")
    rank = float(spearmanr(x, y).statistic)
    unit = (x - x.mean()) / x.std()

    def curve(at: np.ndarray, top: float, bottom: float, middle: float, width: float) -> np.ndarray:
        slope = np.clip((at - middle) / max(abs(width), 1e-9), -500, 500)
        return (top - bottom) / (1 + np.exp(-slope)) + bottom

    ends = (y.max(), y.min()) if rank >= 0 else (y.min(), y.max())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)  # the covariance of the four is not asked for
            parameters, _ = curve_fit(curve, unit, y, p0=(*ends, 0.0, 1.0), maxfev=20_000)
        mapped = curve(unit, *parameters)
    except RuntimeError:  # no curve was found: a straight line is the curve of a large width
        mapped = np.polyval(np.polyfit(unit, y, 1), unit)
    plcc = float(pearsonr(mapped, y).statistic) if np.ptp(mapped) else 0.0
    return Agreement(rank, float(kendalltau(x, y).statistic), plcc, float(np.sqrt(((mapped - y) ** 2).mean())))
