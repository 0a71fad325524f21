"""A threshold for every group, so that all are selected, or found, at one rate."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int

from binderclip.errors import UsageError
from binderclip.numeric import check_number

Constraint: TypeAlias = Literal["demographic_parity", "true_positive_rate_parity"]


@dataclass(kw_only=True)
class GroupThresholds:
    """Decide by a threshold of each group's own, so that a rate is alike in all and errors are fewest.

    For every rate r of a grid each group takes the threshold whose rate is nearest to r (of several, the one with
    fewest errors); the r with fewest errors over all groups wins. Nothing is randomised, so the rates of groups of n
    items agree to about 1 / n. Fit and measure on different items: thresholds flatter those they were chosen on.

    Paper: Hardt, Price and Srebro, Equality of Opportunity in Supervised Learning (NeurIPS 2016, arXiv 1610.02413),
    with the names of fairlearn's `ThresholdOptimizer`; in the survey Fairness and Bias Mitigation in Computer Vision
    (arXiv 2408.02464) the mitigation after training.

    Args:
        constraint: "demographic_parity" (one selection rate) or "true_positive_rate_parity" (one share of positives
            that are found).
        grid_size: rates that are tried, from 0 to 1.

    Attributes:
        thresholds_: group -> threshold; items whose score is above it are selected.
        rate_: the rate that won.

    Raises:
        UsageError: an unknown constraint or a grid of fewer than two rates.
    """

    constraint: Constraint = "demographic_parity"
    grid_size: int = 1001
    thresholds_: dict[Any, float] = field(init=False, repr=False)
    rate_: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if self.constraint not in ("demographic_parity", "true_positive_rate_parity"):
            known = "'demographic_parity' or 'true_positive_rate_parity'"
            raise UsageError(f"constraint is {self.constraint!r}; it is {known}")
        check_number("grid_size", self.grid_size, least=2)

    def fit(self, scores: Any, y: Any, *, sensitive_features: Any) -> GroupThresholds:
        """Choose the thresholds.

        Args:
            scores: (N,) larger is more positive.
            y: (N,) truth, 0 or 1.
            sensitive_features: (N,) group of each item.

        Raises:
            UsageError: lengths differ, values that are not 0 or 1, a score that is not finite, or a group without a
                positive where true positive rates are to agree.
        """
        values, groups = _finite(scores), np.asarray(sensitive_features)
        truth = np.asarray(y).astype(float)
        if not len(values) or not values.shape == truth.shape == groups.shape:
            raise UsageError(f"scores, y and groups must be (N,); got {values.shape}, {truth.shape}, {groups.shape}")
        if not np.isin(truth, (0, 1)).all():
            raise UsageError("y must be 0 or 1")
        grid = np.linspace(0, 1, self.grid_size)
        names = list(dict.fromkeys(groups.tolist()))
        cuts, errors, chosen = {}, np.zeros(len(grid)), {}
        for name in names:
            mine = groups == name
            if self.constraint != "demographic_parity" and not truth[mine].any():
                raise UsageError(f"group {name!r} has no positive, so it has no true positive rate")
            cuts[name], rates, wrong = _cuts(values[mine], truth[mine] > 0, self.constraint == "demographic_parity")
            chosen[name] = _nearest(grid, rates, wrong)
            errors += wrong[chosen[name]]
        best = int(errors.argmin())
        self.rate_ = float(grid[best])
        self.thresholds_ = {name: float(cuts[name][chosen[name][best]]) for name in names}
        return self

    def predict(self, scores: Any, *, sensitive_features: Any) -> Bool[np.ndarray, "N"]:
        """Whether each item is selected.

        Args:
            scores: (N,). sensitive_features: (N,) groups that `fit` has seen.

        Raises:
            UsageError: not fitted, lengths differ, or a group that `fit` has not seen.
        """
        if not hasattr(self, "thresholds_"):
            raise UsageError("GroupThresholds is not fitted: call fit first")
        values, groups = _finite(scores), np.asarray(sensitive_features)
        if values.shape != groups.shape:
            raise UsageError(f"scores and groups must be (N,); got {values.shape} and {groups.shape}")
        unknown = [name for name in dict.fromkeys(groups.tolist()) if name not in self.thresholds_]
        if unknown:
            raise UsageError(f"group {unknown[0]!r} was not fitted: there are {', '.join(map(repr, self.thresholds_))}")
        return values > np.array([self.thresholds_[name] for name in groups.tolist()])


def _finite(scores: Any) -> Float[np.ndarray, "N"]:
    values = np.asarray(scores, dtype=float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise UsageError(f"scores must be finite and of shape (N,); got {values.shape}")
    return values


def _cuts(
    scores: Float[np.ndarray, "n"], truth: Bool[np.ndarray, "n"], parity: bool
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """Every threshold between different scores, from none selected to all: (threshold, rate, errors)."""
    order = np.argsort(-scores, kind="stable")
    value, positive = scores[order], truth[order]
    last = np.flatnonzero(np.append(np.diff(value) != 0, True))  # the last of each run of equal scores
    positives = np.concatenate([[0], positive.cumsum()[last]])
    taken = np.concatenate([[0], last + 1])
    cut = np.concatenate([[np.inf], (value[last[:-1]] + value[last[:-1] + 1]) / 2, [-np.inf]])
    wrong = (taken - positives) + (positive.sum() - positives)
    return cut, taken / len(value) if parity else positives / positive.sum(), wrong


def _nearest(
    grid: Float[np.ndarray, "R"], rates: Float[np.ndarray, "k"], wrong: Int[np.ndarray, "k"]
) -> Int[np.ndarray, "R"]:
    """For each rate of the grid the cut whose rate is nearest; of several with one rate, that with fewest errors."""
    order = np.lexsort((wrong, rates))
    distinct, first = np.unique(rates[order], return_index=True)
    right = np.clip(np.searchsorted(distinct, grid), 1, max(1, len(distinct) - 1))
    left = right - 1
    right = np.minimum(right, len(distinct) - 1)
    nearer = np.where(grid - distinct[left] <= distinct[right] - grid, left, right)
    return order[first[nearer]]
