"""Fit here, test there: how a classifier carries over from one data set to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.base import clone
from sklearn.metrics import roc_auc_score

from binderclip.errors import UsageError


@dataclass(frozen=True)
class Binary:
    """Scores of a yes-or-no classifier.

    Attributes:
        accuracy, f1: over all samples, and of the positive class.
        true_positive_rate, true_negative_rate: of the positives and of the negatives; NaN where there is none.
        bias: the first minus the second: above 0 says yes too often.
        auc: area under the ROC curve, NaN with one class alone.
    """

    accuracy: float
    true_positive_rate: float
    true_negative_rate: float
    f1: float
    auc: float

    @property
    def bias(self) -> float:
        """True-positive minus true-negative rate."""
        return self.true_positive_rate - self.true_negative_rate


def binary_scores(y_true: Any, score: Any, threshold: float = 0.5) -> Binary:
    """Scores of probabilities (or any number) of the positive class at a threshold.

    Args:
        y_true: (N,) truth, 0/1 or booleans.
        score: (N,), larger for the positive class.
        threshold: yes from here on.

    Raises:
        UsageError: unequal lengths, no sample, or labels other than 0 and 1.
    """
    truth, value = np.asarray(y_true), np.asarray(score, dtype=float)
    if truth.shape != value.shape or truth.ndim != 1 or not len(truth):
        raise UsageError(f"y_true {truth.shape} and score {value.shape} must both be (N,), N at least 1")
    if not np.isin(truth, (0, 1)).all():
        raise UsageError("y_true must be 0 or 1 (or booleans): the positive class is 1")
    truth, predicted = truth.astype(bool), value >= threshold
    hits, false = float((predicted & truth).sum()), float((predicted & ~truth).sum())
    return Binary(
        accuracy=float((predicted == truth).mean()),
        true_positive_rate=float(predicted[truth].mean()) if truth.any() else float("nan"),
        true_negative_rate=float((~predicted[~truth]).mean()) if (~truth).any() else float("nan"),
        f1=2 * hits / max(2 * hits + false + float((~predicted & truth).sum()), 1.0),
        auc=float(roc_auc_score(truth, value)) if truth.any() and not truth.all() else float("nan"),
    )


def transfer_matrix(
    estimator: Any,
    train: Mapping[str, tuple[Any, Any]],
    test: Mapping[str, tuple[Any, Any]] | None = None,
    *,
    score: Callable[[Any, Any, Any], float] | None = None,
) -> tuple[list[str], list[str], Float[np.ndarray, "I J"]]:
    """Fit a fresh copy of an estimator on each data set and score it on every one.

    Paper: Detecting Cloud Presence in Satellite Images Using the RGB-based CLIP Vision-Language Model
    (arXiv 2308.00541).

    Args:
        estimator: any scikit-learn classifier; cloned for each fit.
        train: (X, y) by name.
        test: (X, y) by name; None: `train`, whose diagonal is then the training score.
        score: (fitted, X, y) -> number; None: accuracy.

    Returns:
        Names of the rows (where it was fitted), of the columns (where it was tested), and the scores.

    Raises:
        UsageError: no data set, or an entry that is no pair.
    """
    tests = train if test is None else test
    for name, entry in (*train.items(), *tests.items()):
        if not isinstance(entry, (tuple, list)) or len(entry) != 2:
            raise UsageError(f"{name} must be a pair (X, y), not {type(entry).__name__}")
    if not train or not tests:
        raise UsageError("transfer_matrix needs at least one data set to fit on and one to test on")
    scores = np.empty((len(train), len(tests)))
    for i, (x, y) in enumerate(train.values()):
        fitted = clone(estimator).fit(x, y)
        for j, (x_test, y_test) in enumerate(tests.values()):
            scores[i, j] = fitted.score(x_test, y_test) if score is None else score(fitted, x_test, y_test)
    return list(train), list(tests), scores
