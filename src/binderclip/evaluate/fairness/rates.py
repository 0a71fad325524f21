"""Rates of binary decisions and their gaps over groups: fairlearn's names, arguments and signs.

One thing differs: a rate that is undefined is NaN and says so, where fairlearn gives 0. A group without a positive has
no true positive rate, and a gap to it would be made up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from binderclip.errors import UsageError
from binderclip.evaluate.probes.gaps import Method, difference, ratio
from binderclip.evaluate.probes.table import group_rows

Metric: TypeAlias = "Callable[[Any, Any], float]"


def _decisions(y_true: Any, y_pred: Any, pos_label: Any) -> tuple[np.ndarray, np.ndarray]:
    truth, answer = np.asarray(y_true), np.asarray(y_pred)
    if truth.ndim != 1 or truth.shape != answer.shape:
        raise UsageError(f"y_true and y_pred must both be (N,), got {truth.shape} and {answer.shape}")
    return truth == pos_label, answer == pos_label


def _rate(these: np.ndarray, among: np.ndarray) -> float:
    return float(these[among].mean()) if among.any() else math.nan


def selection_rate(y_true: Any, y_pred: Any, *, pos_label: Any = 1) -> float:
    """Share of items that are decided positively; `y_true` is not looked at. NaN without an item.

    Args:
        y_true, y_pred: labels (N,) of any kind.
        pos_label: the positive one; all others are negative.

    Raises:
        UsageError: not of one length.
    """
    _, said = _decisions(y_true, y_pred, pos_label)
    return _rate(said, np.ones_like(said, dtype=bool))


def true_positive_rate(y_true: Any, y_pred: Any, *, pos_label: Any = 1) -> float:
    """Share of positives decided positively (recall); NaN without a positive. Arguments of `selection_rate`."""
    truth, said = _decisions(y_true, y_pred, pos_label)
    return _rate(said, truth)


def false_positive_rate(y_true: Any, y_pred: Any, *, pos_label: Any = 1) -> float:
    """Share of negatives that are decided positively; NaN without a negative. Arguments of `selection_rate`."""
    truth, said = _decisions(y_true, y_pred, pos_label)
    return _rate(said, ~truth)


def true_negative_rate(y_true: Any, y_pred: Any, *, pos_label: Any = 1) -> float:
    """Share of negatives that are decided negatively; NaN without a negative. Arguments of `selection_rate`."""
    truth, said = _decisions(y_true, y_pred, pos_label)
    return _rate(~said, ~truth)


def false_negative_rate(y_true: Any, y_pred: Any, *, pos_label: Any = 1) -> float:
    """Share of positives that are decided negatively; NaN without a positive. Arguments of `selection_rate`."""
    truth, said = _decisions(y_true, y_pred, pos_label)
    return _rate(~said, truth)


def positive_predictive_value(y_true: Any, y_pred: Any, *, pos_label: Any = 1) -> float:
    """Share of positive decisions that are right (precision); NaN without one. Arguments of `selection_rate`."""
    truth, said = _decisions(y_true, y_pred, pos_label)
    return _rate(truth, said)


@dataclass(frozen=True, init=False)
class MetricFrame:
    """Any metrics of every group, with fairlearn's constructor and methods; plain dictionaries instead of pandas.

    Args:
        metrics: a callable (y_true, y_pred) -> number, or several by name.
        y_true, y_pred: (N,) of any kind.
        sensitive_features: one group an item (N,), or several columns by name, whose combinations are the groups. Items
            with None or NaN in one are in no group and count in `overall` alone.

    Attributes:
        overall: metric -> value of all items.
        by_group: metric -> group (a tuple of values) -> value; NaN where undefined.
        counts: items of each group.

    Raises:
        UsageError: no metric, no group, or columns of unequal length.

    Examples:
        >>> frame = MetricFrame(metrics=selection_rate, y_true=[1, 1, 0, 0], y_pred=[1, 1, 1, 0],
        ...                     sensitive_features=["a", "a", "b", "b"])
        >>> frame.difference()
        {'selection_rate': 0.5}
    """

    overall: dict[str, float] = field(init=False)
    by_group: dict[str, dict[tuple[Any, ...], float]] = field(init=False)
    counts: dict[tuple[Any, ...], int] = field(init=False)

    def __init__(
        self, *, metrics: Metric | Mapping[str, Metric], y_true: Any, y_pred: Any,
        sensitive_features: Any | Mapping[str, Any],
    ) -> None:  # fmt: skip
        named = dict(metrics) if isinstance(metrics, Mapping) else {getattr(metrics, "__name__", "metric"): metrics}
        truth, answer = np.asarray(y_true), np.asarray(y_pred)
        several = sensitive_features if isinstance(sensitive_features, Mapping) else {"group": sensitive_features}
        columns = {name: np.asarray(column).tolist() for name, column in several.items()}
        lengths = [len(truth), len(answer), *map(len, columns.values())]
        if not named or len(set(lengths)) != 1:
            raise UsageError(f"MetricFrame takes a metric and columns of one length, got {len(named)} and {lengths}")
        grouping = group_rows(columns)
        if not grouping.values:
            raise UsageError("no item has a group")
        rows = {values: np.flatnonzero(grouping.index == g) for g, values in enumerate(grouping.values)}
        put = object.__setattr__
        put(self, "overall", {name: float(metric(truth, answer)) for name, metric in named.items()})
        put(self, "by_group", {
            name: {values: float(metric(truth[own], answer[own])) for values, own in rows.items()}
            for name, metric in named.items()
        })  # fmt: skip
        put(self, "counts", {values: len(own) for values, own in rows.items()})

    @property
    def undefined(self) -> list[tuple[str, tuple[Any, ...]]]:
        """(metric, group) whose value is NaN: what gaps leave out."""
        return [
            (name, group) for name, own in self.by_group.items() for group, value in own.items() if math.isnan(value)
        ]

    def group_min(self) -> dict[str, float]:
        """The smallest value over groups of each metric, NaN left out."""
        return {name: -float(np.fmax.reduce(-np.array(list(own.values())))) for name, own in self.by_group.items()}

    def group_max(self) -> dict[str, float]:
        """The largest value over groups of each metric, NaN left out."""
        return {name: float(np.fmax.reduce(np.array(list(own.values())))) for name, own in self.by_group.items()}

    def difference(self, method: Method = "between_groups") -> dict[str, float]:
        """Of each metric; see `fairness.difference`."""
        return {
            name: float(difference(np.array(list(own.values())), self.overall[name], method=method))
            for name, own in self.by_group.items()
        }

    def ratio(self, method: Method = "between_groups") -> dict[str, float]:
        """Of each metric; see `fairness.ratio`."""
        return {
            name: float(ratio(np.array(list(own.values())), self.overall[name], method=method))
            for name, own in self.by_group.items()
        }


Agg: TypeAlias = Literal["worst_case", "mean"]
_ODDS: dict[str, Metric] = {"tpr": true_positive_rate, "fpr": false_positive_rate}


def _gap(
    kind: Literal["difference", "ratio"], metrics: Mapping[str, Metric], y_true: Any, y_pred: Any, groups: Any,
    method: Method, pos_label: Any, agg: Agg = "worst_case",
) -> float:  # fmt: skip
    """Difference or ratio of one rate over groups, or the worst or the mean of several."""
    if agg not in ("worst_case", "mean"):
        raise UsageError(f"agg is {agg!r}; it is 'worst_case' or 'mean'")
    truth, said = _decisions(y_true, y_pred, pos_label)
    frame = MetricFrame(
        metrics=metrics, y_true=truth.astype(int), y_pred=said.astype(int), sensitive_features=groups
    )  # fmt: skip
    found = list((frame.difference(method) if kind == "difference" else frame.ratio(method)).values())
    if agg == "mean":
        return float(np.mean(found))
    return float(np.max(found) if kind == "difference" else np.min(found))


def demographic_parity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1
) -> float:
    """Largest minus smallest selection rate over groups; 0 where all groups are selected alike.

    Args:
        y_true, y_pred: labels (N,) of any kind.
        sensitive_features: as in `MetricFrame`.
        method: "between_groups", or "to_overall": the largest distance of a group to all items.
        pos_label: the positive label.

    Raises:
        UsageError: as `MetricFrame`.
    """
    return _gap("difference", {"rate": selection_rate}, y_true, y_pred, sensitive_features, method, pos_label)


def demographic_parity_ratio(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1
) -> float:
    """Smallest over largest selection rate; 1 is no gap. Arguments of `demographic_parity_difference`."""
    return _gap("ratio", {"rate": selection_rate}, y_true, y_pred, sensitive_features, method, pos_label)


def equal_opportunity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1
) -> float:
    """Largest minus smallest true positive rate over groups that have a positive; NaN where fewer than two have.

    Arguments of `demographic_parity_difference`.
    """
    return _gap("difference", {"rate": true_positive_rate}, y_true, y_pred, sensitive_features, method, pos_label)


def equal_opportunity_ratio(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1
) -> float:
    """Smallest over largest true positive rate. Arguments of `demographic_parity_difference`."""
    return _gap("ratio", {"rate": true_positive_rate}, y_true, y_pred, sensitive_features, method, pos_label)


def predictive_equality_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1
) -> float:
    """Largest minus smallest false positive rate over groups that have a negative.

    Paper: Fairness and Bias Mitigation in Computer Vision: A Survey (arXiv 2408.02464); fairlearn has no function for
    it. Arguments of `demographic_parity_difference`.
    """
    return _gap("difference", {"rate": false_positive_rate}, y_true, y_pred, sensitive_features, method, pos_label)


def predictive_parity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1
) -> float:
    """Largest minus smallest precision over groups of which something was decided positively.

    Paper: as `predictive_equality_difference`. Arguments of `demographic_parity_difference`.
    """
    return _gap(
        "difference", {"rate": positive_predictive_value}, y_true, y_pred, sensitive_features, method, pos_label
    )  # fmt: skip


def accuracy_equality_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", pos_label: Any = 1
) -> float:
    """Largest minus smallest share of right decisions over groups.

    Paper: as `predictive_equality_difference`. Arguments of `demographic_parity_difference`.
    """
    right: dict[str, Metric] = {"rate": lambda truth, said: float((truth == said).mean())}
    return _gap("difference", right, y_true, y_pred, sensitive_features, method, pos_label)


def equalized_odds_difference(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    method: Method = "between_groups",
    agg: Agg = "worst_case",
    pos_label: Any = 1,
) -> float:
    """The larger of the differences in true and in false positive rates, or their mean.

    NaN where one of both is: nothing is known of the odds then.

    Args:
        y_true, y_pred, sensitive_features, method, pos_label: as in `demographic_parity_difference`.
        agg: "worst_case" or "mean".

    Raises:
        UsageError: as `MetricFrame`, or another `agg`.
    """
    return _gap("difference", _ODDS, y_true, y_pred, sensitive_features, method, pos_label, agg)


def equalized_odds_ratio(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    method: Method = "between_groups",
    agg: Agg = "worst_case",
    pos_label: Any = 1,
) -> float:
    """The smaller of the ratios of true and of false positive rates, or their mean.

    Arguments of `equalized_odds_difference`.
    """
    return _gap("ratio", _ODDS, y_true, y_pred, sensitive_features, method, pos_label, agg)
