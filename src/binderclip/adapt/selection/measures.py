"""What is said of a classifier, with how sure it is: intervals, calibration, paired tests, the optimism of a choice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy import stats

from binderclip.errors import UsageError


@dataclass(frozen=True)
class Interval:
    """A value with its 95% interval; NaN limits where one measurement cannot give any."""

    value: float
    low: float
    high: float

    @property
    def limits(self) -> str:
        """Both limits in words; empty where there are none."""
        return "" if np.isnan(self.low) else f"{self.low:.3f} to {self.high:.3f}"

    @property
    def errors(self) -> tuple[float, float]:
        """Distance to the lower and to the upper limit, 0 where there are none: what error bars are drawn by."""
        return (0.0, 0.0) if np.isnan(self.low) else (max(0.0, self.value - self.low), max(0.0, self.high - self.value))

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.limits})" if self.limits else f"{self.value:.3f}"


def mean_interval(values: Float[np.ndarray, "S"]) -> Interval:
    """Mean of shares over seeds with Student's 95% interval, cut to [0, 1]."""
    values = np.asarray(values, dtype=float)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, max(0.0, mean - half), min(1.0, mean + half))


def proportion_interval(right: int, total: int) -> Interval:
    """A share with Wilson's 95% interval, which stays inside [0, 1] and is fair for small numbers.

    Raises:
        UsageError: no trial.
    """
    if total < 1:
        raise UsageError("a proportion needs at least one trial")
    interval = stats.binomtest(right, total).proportion_ci(0.95, method="wilson")
    return Interval(right / total, float(interval.low), float(interval.high))


def adaptive_calibration_error(
    probs: Float[np.ndarray, "N C"], targets: Int[np.ndarray, "N"], bins: int = 10
) -> tuple[float, list[tuple[float, float, int]]]:
    """Expected calibration error of the top class, over bins of equal numbers.

    Equal numbers instead of equal widths: with few pictures most of the equal widths are empty or noise.

    Args:
        probs: rows that sum to 1.
        targets: class indices.
        bins: most bins; there are fewer where there are few pictures.

    Returns:
        Mean absolute gap between confidence and accuracy, weighted by size; and (confidence, accuracy, size) a bin.

    Paper: Nguyen and O'Connor, Posterior calibration and exploratory analysis for natural language processing models
    (EMNLP 2015), for adaptive bins.
    """
    confidence, right = probs.max(axis=1), probs.argmax(axis=1) == targets
    order = np.argsort(confidence, kind="stable")
    parts = [p for p in np.array_split(order, min(bins, max(1, len(order) // 5))) if len(p)]
    rows = [(float(confidence[p].mean()), float(right[p].mean()), len(p)) for p in parts]
    return float(sum(abs(c - a) * n for c, a, n in rows) / max(1, len(order))), rows


def macro_f1(predicted: Int[np.ndarray, "N"], targets: Int[np.ndarray, "N"]) -> float:
    """Mean over the classes that occur of the harmonic mean of precision and recall."""
    scores = []
    for c in np.unique(targets):
        hit = int(((predicted == c) & (targets == c)).sum())
        scores.append(2 * hit / max(1, int((predicted == c).sum() + (targets == c).sum())))
    return float(np.mean(scores))


def mcnemar(first: Bool[np.ndarray, "N"], second: Bool[np.ndarray, "N"]) -> tuple[int, int, float]:
    """Exact McNemar test of two classifiers on the same pictures.

    Args:
        first, second: whether each was right.

    Returns:
        Pictures that only the first got right, that only the second got right, and the two-sided p-value.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    total = only_first + only_second
    return only_first, only_second, 1.0 if total == 0 else float(stats.binomtest(only_first, total, 0.5).pvalue)


def selection_optimism(errors: Float[np.ndarray, "M F"]) -> float:
    """How much the best of M cross-validated errors flatters the winner.

    Mean over folds of the error of the overall winner minus the smallest error in that fold.

    Args:
        errors: of each method (row) in each fold (column).

    Paper: Tibshirani and Tibshirani, A bias correction for the minimum error rate in cross-validation (Annals of
    Applied Statistics 2009, arXiv 0908.2904).
    """
    best = int(errors.mean(axis=1).argmin())
    return float((errors[best] - errors.min(axis=0)).mean())
