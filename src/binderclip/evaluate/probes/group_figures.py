"""Figures of groups, their gaps, and the report that holds them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from binderclip.errors import UsageError
from binderclip.evaluate.probes.gaps import Method, difference, ratio


@dataclass(frozen=True)
class GroupFigure:
    """One measure of one group.

    Attributes:
        group: its values, or () for all rows that have a group.
        n: rows.
        value: NaN where it is undefined.
        low, high: 95 % interval; NaN where there is none, as where all resamples are alike.
        reason: why the value, or its interval, is NaN; else empty.
    """

    group: tuple[Any, ...]
    n: int
    value: float
    low: float
    high: float
    reason: str = ""


@dataclass(frozen=True)
class GroupGap:
    """How far the groups are apart in one measure.

    Attributes:
        measure: its name.
        difference: largest minus smallest value over the groups that are compared.
        low, high: 95 % interval of the largest true difference, whichever groups it is between, see `gap_interval`. A
            largest difference is never below zero, however alike the groups are: `chance` says what to compare it with.
        ratio: smallest over largest value.
        deviation: standard deviation of the values over groups.
        smallest, largest: the groups these are in.
        chance, chance_high: mean and 95 % quantile of the difference where the rows' groups are shuffled, among rows of
            one true (or predicted) class where the measure says so (`Measure.given`) and `null` is not "all".
        p: share of shuffles, and the data itself, whose difference is at least as large.
        p_adjusted: the same by Holm's method over all gaps of the report.
        reason: why there is no gap; else empty.
        untested: why shuffles tell nothing of this gap, so that there is no p; else empty.
        note: what weakens its interval or its p; else empty.
    """

    measure: str
    difference: float
    low: float
    high: float
    ratio: float
    deviation: float
    smallest: tuple[Any, ...]
    largest: tuple[Any, ...]
    chance: float
    chance_high: float
    p: float
    p_adjusted: float = math.nan
    reason: str = ""
    untested: str = ""
    note: str = ""

    @property
    def found(self) -> bool:
        """Whether chance alone makes such a difference in less than 5 % of cases, over all gaps of the report."""
        return self.p_adjusted < 0.05

    @property
    def finding(self) -> str:
        """What the gap comes to, in words."""
        if self.reason:
            return f"not compared: {self.reason}"
        return f"not tested: {self.untested}" if self.untested else "found" if self.found else "could be chance"


@dataclass(frozen=True)
class GroupReport:
    """Measures x groups, with intervals and gaps; the names of `MetricFrame` give single figures.

    Made by `group_report`. Paper: Fairness and Bias Mitigation in Computer Vision: A Survey (arXiv 2408.02464).

    Attributes:
        names: the attributes that make the groups.
        figures: measure -> one figure a group, in the order of the groups.
        overall: measure -> the figure of all rows that have a group.
        gaps: measure -> gap.
        small: groups with too few rows to be compared.
        left_out: rows without a group.
        draws: of the bootstrap and of the permutations.
        null: what groups were shuffled among, see `group_report`.
    """

    names: tuple[str, ...]
    figures: dict[str, list[GroupFigure]]
    overall: dict[str, GroupFigure]
    gaps: dict[str, GroupGap]
    small: list[tuple[Any, ...]] = field(default_factory=list)
    left_out: int = 0
    draws: int = 0
    null: str = "given"

    @property
    def by_group(self) -> dict[str, dict[tuple[Any, ...], float]]:
        """Measure -> group -> value."""
        return {name: {one.group: one.value for one in own} for name, own in self.figures.items()}

    @property
    def reasons(self) -> list[str]:
        """What is undefined or has no interval, and why."""
        lines = [
            f"{name} of {_label(one.group)}: {one.reason}"
            for name, own in self.figures.items()
            for one in own
            if one.reason
        ]
        of_gaps = [(gap.measure, why) for gap in self.gaps.values() for why in (gap.reason, gap.untested, gap.note)]
        return lines + [f"gap in {measure}: {why}" for measure, why in of_gaps if why]

    @property
    def compared(self) -> int:
        """Number of groups that are large enough to be compared."""
        return len(next(iter(self.figures.values()))) - len(self.small)

    def group_min(self, measure: str) -> float:
        """The smallest value over the groups that are compared."""
        values = self._compared(measure)
        return float(np.nanmin(values)) if not np.isnan(values).all() else math.nan

    def group_max(self, measure: str) -> float:
        """The largest value over the groups that are compared."""
        values = self._compared(measure)
        return float(np.nanmax(values)) if not np.isnan(values).all() else math.nan

    def difference(self, measure: str, method: Method = "between_groups") -> float:
        """See `probes.gaps.difference`; groups that are too small take no part."""
        return float(difference(self._compared(measure), self.overall[measure].value, method=method))

    def ratio(self, measure: str, method: Method = "between_groups") -> float:
        """See `fairness.ratio`; groups that are too small take no part."""
        return float(ratio(self._compared(measure), self.overall[measure].value, method=method))

    def _compared(self, measure: str) -> Float[np.ndarray, "g"]:
        if measure not in self.figures:
            raise UsageError(f"{measure!r} was not measured: one of {', '.join(self.figures)}")
        return np.array([one.value for one in self.figures[measure] if one.group not in self.small], dtype=float)

    def rows(self) -> list[tuple[str, str, int, float, float, float]]:
        """(measure, group, n, value, low, high), every measure's groups and then all rows."""
        return [
            (name, _label(one.group) or "all", one.n, one.value, one.low, one.high)
            for name, own in self.figures.items()
            for one in [*own, self.overall[name]]
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""

        def figure(one: GroupFigure) -> dict[str, Any]:
            return {
                "group": list(one.group),
                **{name: getattr(one, name) for name in ("n", "value", "low", "high", "reason")},
            }

        return {
            "groups": list(self.names),
            "measures": {
                name: {
                    "overall": figure(self.overall[name]),
                    "by_group": [figure(one) for one in own],
                    "gap": {**vars(self.gaps[name]), "found": self.gaps[name].found},
                }
                for name, own in self.figures.items()
            },
            "small_groups": [list(group) for group in self.small],
            "rows_without_group": self.left_out,
            "draws": self.draws,
            "null": self.null,
        }  # fmt: skip

    def _repr_html_(self) -> str:
        """The table of figures, in a notebook."""
        from binderclip.display import table_html

        return table_html(
            ("measure", "group", "n", "value", "low", "high"), self.rows(), caption=" x ".join(self.names)
        )


def _label(group: tuple[Any, ...]) -> str:
    return " / ".join(map(str, group))
