"""What a study measured: rows, and a table of them with look-ups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float

from binderclip.errors import UsageError


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        metric: what was measured, with its unit where it has one, such as `accuracy` or `fit time (s)`.
        method: of what.
        value: the number.
        setting: where, such as `4 shots`; empty where there is only one.
        seed: set by the runner.
        items: the value of each item (picture, scene) whose mean is `value`, in one order for all methods; empty
            where nothing is paired over items.
    """

    metric: str
    method: str
    value: float
    setting: str = ""
    seed: int = 0
    items: tuple[float, ...] = ()


class Table:
    """The rows of all seeds, with the look-ups that criteria and figures need."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)

    def _found(self, metric: str, method: str, setting: str) -> list[Row]:
        found = [r for r in self.rows if (r.metric, r.method, r.setting) == (metric, method, setting)]
        if not found:
            raise UsageError(
                f"the study measured no {metric!r} of {method!r}" + (f" at {setting!r}" if setting else "")
            )
        return sorted(found, key=lambda row: (row.seed, row.value))

    def values(self, metric: str, method: str, setting: str = "") -> Float[np.ndarray, "S"]:
        """One value a seed, in the order of the seeds.

        Raises:
            UsageError: nothing was measured under these names.
        """
        return np.array([row.value for row in self._found(metric, method, setting)], dtype=float)

    def items(self, metric: str, method: str, setting: str = "") -> Float[np.ndarray, "N"]:
        """The values of the items of all seeds, one seed after the other.

        Raises:
            UsageError: nothing was measured under these names, or no items were kept.
        """
        found = self._found(metric, method, setting)
        if not all(row.items for row in found):
            raise UsageError(f"the rows of {metric!r} of {method!r} keep no values of items")
        return np.concatenate([np.array(row.items, dtype=float) for row in found])

    def mean(self, metric: str, method: str, setting: str = "") -> float:
        """Mean over seeds."""
        return float(self.values(metric, method, setting).mean())

    def names(self, part: Literal["metric", "method", "setting"], metric: str | None = None) -> list[str]:
        """Distinct metrics, methods or settings in the order they were measured."""
        rows = self.rows if metric is None else [row for row in self.rows if row.metric == metric]
        return list(dict.fromkeys(getattr(row, part) for row in rows))

    def has(self, metric: str, method: str, setting: str) -> bool:
        """Whether this was measured."""
        return any((r.metric, r.method, r.setting) == (metric, method, setting) for r in self.rows)
