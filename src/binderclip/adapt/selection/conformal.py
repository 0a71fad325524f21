"""Sets of classes that hold the true one as often as promised: split-conformal prediction on any probabilities."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from binderclip.errors import UsageError
from binderclip.numeric import check_number


def conformal_thresholds(
    proba: Float[np.ndarray, "N C"], targets: Int[np.ndarray, "N"], *, alpha: float = 0.1, per_class: bool = False
) -> Float[np.ndarray, "C"]:
    """Split-conformal thresholds: how improbable a class may be and still belong to the set.

    The threshold is the `ceil((n + 1)(1 - alpha))`-th smallest `1 - p(true class)` of n calibration examples, which
    the method was not fitted on. Sets then hold the true class with probability at least 1 - alpha.

    Args:
        proba: probabilities of the calibration examples, such as `head.predict_proba(X)`.
        targets: their classes, as columns of `proba`.
        alpha: share of true classes that may be missed.
        per_class: one threshold a class (Mondrian), so that the promise holds within each class; a class without a
            calibration example gets infinity, and so is in every set.

    Raises:
        UsageError: no example, alpha outside (0, 1), or targets that are no columns.
    """
    proba, targets = np.asarray(proba, dtype=np.float64), np.asarray(targets)
    if proba.ndim != 2 or targets.shape != (len(proba),) or not len(proba):
        raise UsageError(f"proba and targets must be (N, C) and (N,), not {proba.shape} and {targets.shape}")
    check_number("alpha", alpha, above=0, below=1)
    if targets.min() < 0 or targets.max() >= proba.shape[1]:
        raise UsageError(f"targets must be columns 0 to {proba.shape[1] - 1} of proba")
    scores = 1 - proba[np.arange(len(targets)), targets]
    if not per_class:
        return np.full(proba.shape[1], _quantile(scores, alpha))
    return np.array([_quantile(scores[targets == c], alpha) for c in range(proba.shape[1])])


def conformal_sets(
    proba: Float[np.ndarray, "N C"], thresholds: Float[np.ndarray, "C"], *, allow_empty: bool = False
) -> np.ndarray:
    """Which classes are in each example's set, (N, C) of bool: those with `1 - p` at most the threshold.

    Args:
        proba: probabilities of new examples.
        thresholds: from `conformal_thresholds`.
        allow_empty: leave a set without any class empty ("none of these"); otherwise it gets the likeliest class.
    """
    proba = np.asarray(proba, dtype=np.float64)
    sets = 1 - proba <= np.asarray(thresholds)
    if not allow_empty:
        empty = ~sets.any(axis=1)
        sets[empty, proba[empty].argmax(axis=1)] = True
    return sets


def _quantile(scores: Float[np.ndarray, "n"], alpha: float) -> float:
    rank = int(np.ceil((len(scores) + 1) * (1 - alpha) - 1e-12))
    # With so few examples no finite threshold keeps the promise: every class is in the set.
    return float(np.sort(scores)[rank - 1]) if rank <= len(scores) else float("inf")
