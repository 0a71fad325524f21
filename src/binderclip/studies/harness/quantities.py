"""What a criterion compares: one number a seed out of the table, as plain data that can be hashed and printed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from binderclip.errors import UsageError
from binderclip.studies.harness.table import Table

_COMBINED: dict[str, Callable[[Any], Any]] = {
    "mean": lambda values: values.mean(axis=0),
    "least": lambda values: values.min(axis=0),
    "most": lambda values: values.max(axis=0),
    "median": lambda values: np.median(values, axis=0),
    "range": lambda values: np.ptp(values, axis=0),
    "deviation": lambda values: values.std(axis=0, ddof=1),
    "difference": lambda values: values[0] - values[1],
    "ratio": lambda values: values[0] / values[1],
    "log ratio": lambda values: np.log(values[0] / values[1]),
    "rank": lambda values: np.array([_order(column) for column in values.T]),
}


def _order(values: Float[np.ndarray, "P"]) -> float:
    """Spearman's correlation of the values with their places; 0 where all are equal."""
    from scipy.stats import spearmanr

    return 0.0 if np.ptp(values) == 0 else float(spearmanr(np.arange(len(values)), values).statistic)


@dataclass(frozen=True)
class Quantity:
    """One number a seed: rows of the table, a constant, or a combination of such.

    Attributes:
        how: `rows`, `constant`, or how the parts are combined.
        parts: metric, method and settings of `rows`; the number of `constant`; else quantities.
    """

    how: str
    parts: tuple[Any, ...]

    def values(self, table: Table) -> Float[np.ndarray, "S"]:
        """One value a seed; a constant is a single value.

        Raises:
            UsageError: nothing was measured under these names.
        """
        if self.how == "constant":
            return np.array([self.parts[0]])
        if self.how == "rows":
            metric, method, *settings = self.parts
            return np.mean([table.values(metric, method, setting) for setting in settings], axis=0)
        return _COMBINED[self.how](np.stack(np.broadcast_arrays(*(part.values(table) for part in self.parts))))

    def items(self, table: Table) -> Float[np.ndarray, "N"]:
        """The values of all items, of all settings one after the other.

        Raises:
            UsageError: the rows keep no items, or the quantity is a combination.
        """
        if self.how == "constant":
            return np.array([self.parts[0]])
        if self.how != "rows":
            raise UsageError(f"a criterion over items compares rows, not the {self.how} of several")
        metric, method, *settings = self.parts
        return np.concatenate([table.items(metric, method, setting) for setting in settings])

    def __sub__(self, other: Quantity | float) -> Quantity:
        return Quantity("difference", (self, quantity(other)))

    def __truediv__(self, other: Quantity | float) -> Quantity:
        return Quantity("ratio", (self, quantity(other)))

    def log_over(self, other: Quantity) -> Quantity:
        """Logarithm of the ratio to another one: ratios are averaged as factors, not as sums."""
        return Quantity("log ratio", (self, other))


def quantity(value: Quantity | float) -> Quantity:
    """A number as a quantity."""
    return value if isinstance(value, Quantity) else Quantity("constant", (float(value),))


def value_of(metric: str, method: str, *settings: str) -> Quantity:
    """Rows of one metric and method; the mean over the settings where several are given."""
    return Quantity("rows", (metric, method, *(settings or ("",))))


def combined(how: str, *parts: Quantity) -> Quantity:
    """For each seed the `mean`, `least`, `most`, `median`, `range` or `deviation` of several quantities.

    Raises:
        UsageError: an unknown combination, or nothing to combine.
    """
    if how not in _COMBINED or not parts:
        raise UsageError(f"combined({how!r}, {len(parts)} parts): one of {', '.join(_COMBINED)} of at least one")
    return Quantity(how, parts)
