"""Difference and ratio of a figure over groups, as fairlearn's `MetricFrame` defines them, for many draws at once."""

from __future__ import annotations

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float

from binderclip.errors import UsageError

Method: TypeAlias = Literal["between_groups", "to_overall"]


def difference(
    by_group: Float[np.ndarray, "*D G"],
    overall: Float[np.ndarray, "*D"] | float | None = None,
    *,
    method: Method = "between_groups",
) -> Float[np.ndarray, "*D"]:
    """Largest minus smallest value over groups, or the largest distance of a group to the overall value; never below 0.

    Groups whose value is NaN are left out; NaN where fewer than two are left (one, for "to_overall").

    Args:
        by_group: a value for each group.
        overall: the value of all rows together, for "to_overall".
        method: "between_groups" or "to_overall".

    Raises:
        UsageError: another method, or no overall value.
    """
    if method == "between_groups":
        low, high = _ends(by_group)
        return np.asarray(high - low)  # of 0-dim arrays NumPy gives a scalar
    return _last(np.abs(by_group - _overall(overall, method)), np.maximum)


def ratio(
    by_group: Float[np.ndarray, "*D G"],
    overall: Float[np.ndarray, "*D"] | float | None = None,
    *,
    method: Method = "between_groups",
) -> Float[np.ndarray, "*D"]:
    """Smallest over largest value, or the worst of group over overall and its inverse; 1 is no gap, 0 / 0 is NaN.

    Groups whose value is NaN are left out; NaN where fewer than two are left (one, for "to_overall").

    Args:
        by_group, overall, method: as in `difference`.

    Raises:
        UsageError: as `difference`.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        if method == "between_groups":
            low, high = _ends(by_group)
            return np.asarray(low / high)
        each = by_group / _overall(overall, method)
        return _last(np.minimum(each, 1 / each), np.minimum)


def _overall(overall: Float[np.ndarray, "*D"] | float | None, method: str) -> Float[np.ndarray, "*D 1"]:
    if method != "to_overall":
        raise UsageError(f"method is {method!r}; it is 'between_groups' or 'to_overall'")
    if overall is None:
        raise UsageError("method 'to_overall' needs the overall value")
    return np.asarray(overall, dtype=float)[..., None]


def _ends(values: Float[np.ndarray, "*D G"]) -> tuple[Float[np.ndarray, "*D"], Float[np.ndarray, "*D"]]:
    enough = (~np.isnan(values)).sum(axis=-1) > 1
    low, high = _last(values, np.minimum), _last(values, np.maximum)
    return np.where(enough, low, np.nan), np.where(enough, high, np.nan)


def _last(values: Float[np.ndarray, "*D G"], of: np.ufunc) -> Float[np.ndarray, "*D"]:
    """Least or largest over the last axis without NaN; NaN where there is nothing else."""
    beyond = np.inf if of is np.minimum else -np.inf
    extremes = of.reduce(np.where(np.isnan(values), beyond, values), axis=-1, initial=beyond)
    return np.where(np.isnan(values).all(axis=-1), np.nan, extremes)
