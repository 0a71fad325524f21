"""`MetricFrame`: any metrics of every group, with fairlearn's constructor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from binderclip.errors import UsageError
from binderclip.evaluate.probes.gaps import Method, difference, ratio
from binderclip.evaluate.probes.table import group_rows

Metric: TypeAlias = "Callable[..., float]"
GroupValues: TypeAlias = "dict[tuple[Any, ...], float]"
Figure: TypeAlias = "float | GroupValues"
"""A number; with control features one for each combination of their values."""


def weights_of(sample_weight: Any, n: int) -> Float[np.ndarray, "n"]:
    """Weights as numbers, all 1 where none are given.

    Raises:
        UsageError: not one finite number of at least 0 an item.
    """
    if sample_weight is None:
        return np.ones(n)
    weight = np.asarray(sample_weight, dtype=float)
    if weight.shape != (n,) or not (np.isfinite(weight) & (weight >= 0)).all():
        raise UsageError(f"sample_weight must hold {n} finite numbers of at least 0, got shape {weight.shape}")
    return weight


def feature_columns(features: Any, name: str) -> dict[str, list[Any]]:
    """Columns by name: of a mapping, a data frame, an array (N, K), or one value an item.

    Args:
        features: as it was given.
        name: of the argument; columns without a name are called after it.

    Raises:
        UsageError: an array of more than two axes.
    """
    if isinstance(features, Mapping):
        return {str(key): np.asarray(column).tolist() for key, column in features.items()}
    if hasattr(features, "columns"):  # a data frame, of whichever library
        return {str(key): np.asarray(features[key]).tolist() for key in features.columns}
    values = np.asarray(features)
    if values.ndim == 1:
        own = getattr(features, "name", None)  # a named series
        return {str(own) if own is not None else name: values.tolist()}
    if values.ndim != 2:
        raise UsageError(f"{name} must be (N,), (N, K), a data frame or columns by name, got shape {values.shape}")
    return {f"{name}_{column}": values[:, column].tolist() for column in range(values.shape[1])}


@dataclass(frozen=True, init=False)
class MetricFrame:
    """Any metrics of every group, with fairlearn's constructor and methods; plain dictionaries instead of pandas.

    Args:
        metrics: a callable (y_true, y_pred) -> number, or several by name.
        y_true, y_pred: (N,) of any kind.
        sensitive_features: one group an item (N,), or several columns, (N, K), a data frame or by name, whose
            combinations are the groups. Items with None or NaN in one are in no group and count in `overall` alone.
        control_features: columns of the same forms. Groups are compared among the items of one combination of their
            values alone; items with None or NaN in one are left out.
        sample_params: keyword -> (N,) values that metrics are given for their items, such as `sample_weight`; of
            several metrics by name, metric -> keyword -> values.

    Attributes:
        overall: metric -> value of all items; with control features metric -> their values -> value.
        by_group: metric -> group (a tuple of values, those of control features first) -> value; NaN where undefined.
        counts: items of each group.
        control_levels: number of control features.

    Raises:
        UsageError: no metric, no group, columns of unequal length, or parameters of an unknown metric.

    Examples:
        >>> from binderclip.evaluate.fairness import selection_rate
        >>> frame = MetricFrame(metrics=selection_rate, y_true=[1, 1, 0, 0], y_pred=[1, 1, 1, 0],
        ...                     sensitive_features=["a", "a", "b", "b"])
        >>> frame.difference()
        {'selection_rate': 0.5}
    """

    overall: dict[str, Any] = field(init=False)
    by_group: dict[str, GroupValues] = field(init=False)
    counts: dict[tuple[Any, ...], int] = field(init=False)
    control_levels: int = field(init=False)

    def __init__(
        self, *, metrics: Metric | Mapping[str, Metric], y_true: Any, y_pred: Any, sensitive_features: Any,
        control_features: Any = None, sample_params: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        named = dict(metrics) if isinstance(metrics, Mapping) else {getattr(metrics, "__name__", "metric"): metrics}
        truth, answer = np.asarray(y_true), np.asarray(y_pred)
        columns = feature_columns(sensitive_features, "sensitive_feature")
        control = {} if control_features is None else feature_columns(control_features, "control_feature")
        lengths = [len(truth), len(answer), *map(len, [*columns.values(), *control.values()])]
        if not named or len(set(lengths)) != 1:
            raise UsageError(f"MetricFrame takes a metric and columns of one length, got {len(named)} and {lengths}")
        params = _params(sample_params, named, isinstance(metrics, Mapping), len(truth))

        def values(rows: Any) -> dict[str, float]:
            return {
                name: float(
                    metric(truth[rows], answer[rows], **{key: held[rows] for key, held in params[name].items()})
                )
                for name, metric in named.items()
            }

        # both kinds of columns may have one name
        grouping = group_rows({**{f"control {name}": column for name, column in control.items()}, **columns})
        if not grouping.values:
            raise UsageError("no item has a group")
        rows = {group: np.flatnonzero(grouping.index == g) for g, group in enumerate(grouping.values)}
        overall: list[tuple[tuple[Any, ...], dict[str, float]]] = [((), values(slice(None)))]
        if control:
            levels = group_rows(control)
            overall = [(level, values(levels.index == c)) for c, level in enumerate(levels.values)]
        figures = {group: values(own) for group, own in rows.items()}
        put = object.__setattr__
        put(self, "control_levels", len(control))
        put(self, "overall", {name: self._figure((level, each[name]) for level, each in overall) for name in named})
        put(self, "by_group", {name: {group: each[name] for group, each in figures.items()} for name in named})
        put(self, "counts", {group: len(own) for group, own in rows.items()})

    def _figure(self, values: Iterable[tuple[tuple[Any, ...], float]]) -> Figure:
        """The one number there is, or numbers by the values of the control features."""
        held = dict(values)
        return held if self.control_levels else held[()]

    def _aggregated(self, of: Callable[[Float[np.ndarray, "G"], float], Any]) -> dict[str, Any]:
        """Metric -> figure of the groups' values and the overall one, by the values of the control features."""
        figures = {}
        for name, own in self.by_group.items():
            parts: dict[tuple[Any, ...], list[float]] = {}
            for group, value in own.items():
                parts.setdefault(group[: self.control_levels], []).append(value)
            overall = self.overall[name] if self.control_levels else {(): self.overall[name]}
            figures[name] = self._figure(
                (level, float(of(np.array(values), overall[level]))) for level, values in parts.items()
            )
        return figures

    @property
    def undefined(self) -> list[tuple[str, tuple[Any, ...]]]:
        """(metric, group) whose value is NaN: what gaps leave out."""
        return [
            (name, group) for name, own in self.by_group.items() for group, value in own.items() if math.isnan(value)
        ]

    def group_min(self) -> dict[str, Any]:
        """The smallest value over groups of each metric, NaN left out."""
        return self._aggregated(lambda values, _: np.fmin.reduce(values))

    def group_max(self) -> dict[str, Any]:
        """The largest value over groups of each metric, NaN left out."""
        return self._aggregated(lambda values, _: np.fmax.reduce(values))

    def difference(self, method: Method = "between_groups") -> dict[str, Any]:
        """Of each metric; see `fairness.difference`."""
        return self._aggregated(lambda values, overall: difference(values, overall, method=method))

    def ratio(self, method: Method = "between_groups") -> dict[str, Any]:
        """Of each metric; see `fairness.ratio`."""
        return self._aggregated(lambda values, overall: ratio(values, overall, method=method))


def _params(
    given: Mapping[str, Any] | None, named: Mapping[str, Metric], several: bool, n: int
) -> dict[str, dict[str, np.ndarray]]:
    """Metric -> keyword -> values, one an item."""
    by_metric: Mapping[str, Any] = {} if given is None else given if several else {next(iter(named)): given}
    if unknown := set(by_metric) - set(named):
        raise UsageError(f"sample_params names {sorted(unknown)}; the metrics are {', '.join(named)}")
    params = {
        name: {key: np.asarray(values) for key, values in by_metric.get(name, {}).items() if values is not None}
        for name in named
    }
    for name, own in params.items():
        for key, values in own.items():
            if values.shape[:1] != (n,):
                raise UsageError(f"sample_params: {key} of {name} must hold {n} values, got shape {values.shape}")
    return params
