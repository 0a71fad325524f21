"""Rates of binary decisions and their gaps over groups: fairlearn's names, arguments and signs.

One thing differs: a rate that is undefined is NaN and says so, where fairlearn gives 0. A group without a positive has
no true positive rate, and a gap to it would be made up.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np

from binderclip.errors import UsageError
from binderclip.evaluate.fairness.frame import Metric, MetricFrame, weights_of
from binderclip.evaluate.probes.gaps import Method
from binderclip.segment.metrics.calibration import bin_index
from binderclip.settings import check_choice


def _decisions(y_true: Any, y_pred: Any, pos_label: Any) -> tuple[np.ndarray, np.ndarray]:
    truth, answer = np.asarray(y_true), np.asarray(y_pred)
    if truth.ndim != 1 or truth.shape != answer.shape:
        raise UsageError(f"y_true and y_pred must both be (N,), got {truth.shape} and {answer.shape}")
    return truth == pos_label, answer == pos_label


def _rate(these: np.ndarray, among: np.ndarray, sample_weight: Any) -> float:
    weight = weights_of(sample_weight, len(these)) * among
    return float(weight[these].sum() / weight.sum()) if weight.sum() > 0 else math.nan


def selection_rate(y_true: Any, y_pred: Any, *, pos_label: Any = 1, sample_weight: Any = None) -> float:
    """Share of items that are decided positively; `y_true` is not looked at. NaN without an item.

    Args:
        y_true, y_pred: labels (N,) of any kind.
        pos_label: the positive one; all others are negative.
        sample_weight: (N,) what each item counts, at least 0; default 1.

    Raises:
        UsageError: not of one length.
    """
    _, decisions = _decisions(y_true, y_pred, pos_label)
    return _rate(decisions, np.ones_like(decisions, dtype=bool), sample_weight)


def true_positive_rate(y_true: Any, y_pred: Any, *, pos_label: Any = 1, sample_weight: Any = None) -> float:
    """Share of positives decided positively (recall); NaN without a positive. Arguments of `selection_rate`."""
    truth, decisions = _decisions(y_true, y_pred, pos_label)
    return _rate(decisions, truth, sample_weight)


def false_positive_rate(y_true: Any, y_pred: Any, *, pos_label: Any = 1, sample_weight: Any = None) -> float:
    """Share of negatives that are decided positively; NaN without a negative. Arguments of `selection_rate`."""
    truth, decisions = _decisions(y_true, y_pred, pos_label)
    return _rate(decisions, ~truth, sample_weight)


def true_negative_rate(y_true: Any, y_pred: Any, *, pos_label: Any = 1, sample_weight: Any = None) -> float:
    """Share of negatives that are decided negatively; NaN without a negative. Arguments of `selection_rate`."""
    truth, decisions = _decisions(y_true, y_pred, pos_label)
    return _rate(~decisions, ~truth, sample_weight)


def false_negative_rate(y_true: Any, y_pred: Any, *, pos_label: Any = 1, sample_weight: Any = None) -> float:
    """Share of positives that are decided negatively; NaN without a positive. Arguments of `selection_rate`."""
    truth, decisions = _decisions(y_true, y_pred, pos_label)
    return _rate(~decisions, truth, sample_weight)


def positive_predictive_value(y_true: Any, y_pred: Any, *, pos_label: Any = 1, sample_weight: Any = None) -> float:
    """Share of positive decisions that are right (precision); NaN without one. Arguments of `selection_rate`."""
    truth, decisions = _decisions(y_true, y_pred, pos_label)
    return _rate(truth, decisions, sample_weight)


def binary_calibration_error(
    y_true: Any, y_score: Any, *, bins: int = 15, right: bool = True, pos_label: Any = 1, sample_weight: Any = None
) -> float:
    """Mean distance of the share of positives from the mean score, over bins of the score; NaN without an item.

    sum_b w_b / w |mean y in b - mean score in b| over bins of equal width. A metric for `MetricFrame`, where it gives
    the calibration within each group.

    Args:
        y_true: (N,) labels of any kind.
        y_score: (N,) probability of the positive one, in [0, 1].
        bins: of equal width.
        right: a score on an edge belongs to the bin below, as in `CalibrationBins`.
        pos_label: the positive label.
        sample_weight: (N,) what each item counts, at least 0; default 1.

    Raises:
        UsageError: lengths that differ, a score that is no probability, or no bin.

    Paper: Fairness and Bias Mitigation in Computer Vision: A Survey (arXiv 2408.02464).
    """
    truth, score = np.asarray(y_true) == pos_label, np.asarray(y_score, dtype=float)
    if truth.ndim != 1 or truth.shape != score.shape or bins < 1:
        raise UsageError(
            f"y_true and y_score must be (N,) and bins at least 1; got {truth.shape}, {score.shape}, {bins}"
        )
    if not ((score >= 0) & (score <= 1)).all():
        raise UsageError("y_score must hold probabilities in [0, 1]")
    weight = weights_of(sample_weight, len(truth))
    if not weight.sum() > 0:
        return math.nan
    gaps = np.bincount(bin_index(score, bins, right=right), weights=weight * (truth - score), minlength=bins)
    return float(np.abs(gaps).sum() / weight.sum())


def calibration_difference(
    y_true: Any, y_score: Any, *, sensitive_features: Any, bins: int = 15, right: bool = True,
    method: Method = "between_groups", pos_label: Any = 1, sample_weight: Any = None,
) -> float:  # fmt: skip
    """Largest minus smallest expected calibration error over groups: calibration within groups.

    Args:
        y_true, y_score, bins, right, pos_label, sample_weight: as in `binary_calibration_error`.
        sensitive_features, method: as in `demographic_parity_difference`.

    Raises:
        UsageError: as `binary_calibration_error` and `MetricFrame`.

    Paper: as `binary_calibration_error`.
    """

    def error(truth: Any, score: Any, *, sample_weight: Any = None) -> float:
        return binary_calibration_error(truth, score, bins=bins, right=right, sample_weight=sample_weight)

    frame = MetricFrame(
        metrics={"error": error}, y_true=(np.asarray(y_true) == pos_label).astype(int), y_pred=y_score,
        sensitive_features=sensitive_features,
        sample_params=None if sample_weight is None else {"error": {"sample_weight": sample_weight}},
    )  # fmt: skip
    return float(frame.difference(method)["error"])


def _accuracy(y_true: Any, y_pred: Any, *, sample_weight: Any = None) -> float:
    return _rate(y_true == y_pred, np.ones(len(y_true), dtype=bool), sample_weight)


Agg: TypeAlias = Literal["worst_case", "mean"]
_ODDS: dict[str, Metric] = {"tpr": true_positive_rate, "fpr": false_positive_rate}


def _gap(
    kind: Literal["difference", "ratio"], metrics: Mapping[str, Metric], y_true: Any, y_pred: Any, groups: Any,
    method: Method, pos_label: Any, sample_weight: Any, agg: Agg = "worst_case",
) -> float:  # fmt: skip
    """Difference or ratio of one rate over groups, or the worst or the mean of several."""
    check_choice("agg", agg, ("worst_case", "mean"))
    truth, decisions = _decisions(y_true, y_pred, pos_label)
    params = None if sample_weight is None else {name: {"sample_weight": sample_weight} for name in metrics}
    frame = MetricFrame(
        metrics=metrics, y_true=truth.astype(int), y_pred=decisions.astype(int), sensitive_features=groups,
        sample_params=params,
    )  # fmt: skip
    gaps = list((frame.difference(method) if kind == "difference" else frame.ratio(method)).values())
    if agg == "mean":
        return float(np.mean(gaps))
    return float(np.max(gaps) if kind == "difference" else np.min(gaps))


def demographic_parity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1,
    sample_weight: Any = None,
) -> float:  # fmt: skip
    """Largest minus smallest selection rate over groups; 0 where all groups are selected alike.

    Args:
        y_true, y_pred: labels (N,) of any kind.
        sensitive_features: as in `MetricFrame`.
        method: "between_groups", or "to_overall": the largest distance of a group to all items.
        pos_label: the positive label.
        sample_weight: (N,) what each item counts, at least 0; default 1.

    Raises:
        UsageError: as `MetricFrame`.
    """
    return _gap(
        "difference", {"rate": selection_rate}, y_true, y_pred, sensitive_features, method, pos_label, sample_weight
    )


def demographic_parity_ratio(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1,
    sample_weight: Any = None,
) -> float:  # fmt: skip
    """Smallest over largest selection rate; 1 is no gap. Arguments of `demographic_parity_difference`."""
    return _gap("ratio", {"rate": selection_rate}, y_true, y_pred, sensitive_features, method, pos_label, sample_weight)


def equal_opportunity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1,
    sample_weight: Any = None,
) -> float:  # fmt: skip
    """Largest minus smallest true positive rate over groups that have a positive; NaN where fewer than two have.

    Arguments of `demographic_parity_difference`.
    """
    return _gap(
        "difference", {"rate": true_positive_rate}, y_true, y_pred, sensitive_features, method, pos_label, sample_weight
    )


def equal_opportunity_ratio(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1,
    sample_weight: Any = None,
) -> float:  # fmt: skip
    """Smallest over largest true positive rate. Arguments of `demographic_parity_difference`."""
    return _gap(
        "ratio", {"rate": true_positive_rate}, y_true, y_pred, sensitive_features, method, pos_label, sample_weight
    )


def predictive_equality_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1,
    sample_weight: Any = None,
) -> float:  # fmt: skip
    """Largest minus smallest false positive rate over groups that have a negative.

    Paper: Fairness and Bias Mitigation in Computer Vision: A Survey (arXiv 2408.02464); fairlearn has no function for
    it. Arguments of `demographic_parity_difference`.
    """
    return _gap(
        "difference",
        {"rate": false_positive_rate},
        y_true,
        y_pred,
        sensitive_features,
        method,
        pos_label,
        sample_weight,
    )


def predictive_parity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1,
    sample_weight: Any = None,
) -> float:  # fmt: skip
    """Largest minus smallest precision over groups of which something was decided positively.

    Paper: as `predictive_equality_difference`. Arguments of `demographic_parity_difference`.
    """
    return _gap(
        "difference", {"rate": positive_predictive_value}, y_true, y_pred, sensitive_features, method, pos_label,
        sample_weight,
    )  # fmt: skip


def accuracy_equality_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1,
    sample_weight: Any = None,
) -> float:  # fmt: skip
    """Largest minus smallest share of right decisions over groups.

    Paper: as `predictive_equality_difference`. Arguments of `demographic_parity_difference`.
    """
    return _gap("difference", {"rate": _accuracy}, y_true, y_pred, sensitive_features, method, pos_label, sample_weight)


def equalized_odds_difference(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    method: Method = "between_groups",
    agg: Agg = "worst_case",
    pos_label: Any = 1,
    sample_weight: Any = None,
) -> float:
    """The larger of the differences in true and in false positive rates, or their mean.

    NaN where one of both is: nothing is known of the odds then.

    Args:
        y_true, y_pred, sensitive_features, method, pos_label, sample_weight: as in `demographic_parity_difference`.
        agg: "worst_case" or "mean".

    Raises:
        UsageError: as `MetricFrame`, or another `agg`.
    """
    return _gap("difference", _ODDS, y_true, y_pred, sensitive_features, method, pos_label, sample_weight, agg)


def equalized_odds_ratio(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    method: Method = "between_groups",
    agg: Agg = "worst_case",
    pos_label: Any = 1,
    sample_weight: Any = None,
) -> float:
    """The smaller of the ratios of true and of false positive rates, or their mean.

    Arguments of `equalized_odds_difference`.
    """
    return _gap("ratio", _ODDS, y_true, y_pred, sensitive_features, method, pos_label, sample_weight, agg)
