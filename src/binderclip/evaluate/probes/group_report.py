"""`GroupReport`: measures of every group, their gaps with intervals, and what gaps chance alone would make."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.evaluate.probes.gaps import Method, difference, ratio
from binderclip.evaluate.probes.measures import Measure, accuracy, calibration_error, mean_confidence
from binderclip.evaluate.probes.resampling import bootstrap_sums, group_sums, permuted_sums
from binderclip.evaluate.probes.table import Grouping, PredictionTable

LEAST = 10
"""Rows below which a group is listed and takes no part in a gap: its value says next to nothing."""
HELD = 8_000_000
"""Sums that are held at once, all draws, groups and columns together."""
UNDEFINED = 0.05
"""Largest share of resamples in which a figure may be undefined and still get an interval."""


@dataclass(frozen=True)
class GroupFigure:
    """One measure of one group.

    Attributes:
        group: its values, or () for all rows that have a group.
        n: rows.
        value: NaN where it is undefined.
        low, high: 95 % interval; NaN where there is none.
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
            one true (or predicted) class where the measure says so (`Measure.given`).
        p: share of shuffles, and the data itself, whose difference is at least as large.
        p_adjusted: the same by Holm's method over all gaps of the report.
        reason: why there is no gap; else empty.
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

    @property
    def found(self) -> bool:
        """Whether chance alone makes such a difference in less than 5 % of cases, over all gaps of the report."""
        return self.p_adjusted < 0.05


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
    """

    names: tuple[str, ...]
    figures: dict[str, list[GroupFigure]]
    overall: dict[str, GroupFigure]
    gaps: dict[str, GroupGap]
    small: list[tuple[Any, ...]] = field(default_factory=list)
    left_out: int = 0
    draws: int = 0

    @property
    def by_group(self) -> dict[str, dict[tuple[Any, ...], float]]:
        """Measure -> group -> value."""
        return {name: {one.group: one.value for one in own} for name, own in self.figures.items()}

    @property
    def reasons(self) -> list[str]:
        """What is undefined or has no interval, and why."""
        said = [
            f"{name} of {_label(one.group)}: {one.reason}"
            for name, own in self.figures.items()
            for one in own
            if one.reason
        ]
        return said + [f"gap in {gap.measure}: {gap.reason}" for gap in self.gaps.values() if gap.reason]

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
        }  # fmt: skip

    def _repr_html_(self) -> str:
        """The table of figures, in a notebook."""
        from binderclip.display import table_html

        return table_html(
            ("measure", "group", "n", "value", "low", "high"), self.rows(), caption=" x ".join(self.names)
        )


def group_report(
    table: PredictionTable,
    *names: str,
    measures: Sequence[Measure] = (),
    draws: int = 1000,
    least: int = LEAST,
    seed: int = 0,
) -> GroupReport:
    """Measure every group of a table and how far the groups are apart, with intervals and a permutation baseline.

    Args:
        table: the predictions.
        names: attributes whose combinations are the groups.
        measures: default accuracy, mean confidence and the calibration error.
        draws: resamples, and permutations; at least 100.
        least: rows that a group needs to take part in a gap.
        seed: of the draws.

    Raises:
        UsageError: no attribute, too few draws, a measure twice, or fewer than two groups.
    """
    chosen = list(measures) or [accuracy(), mean_confidence(), calibration_error()]
    if draws < 100:
        raise UsageError(f"draws is {draws}; a 95 % interval takes at least 100")
    if len({measure.name for measure in chosen}) != len(chosen):
        raise UsageError(f"a measure occurs twice: {', '.join(measure.name for measure in chosen)}")
    grouping = table.groups(*names)
    if len(grouping.values) < 2:
        raise UsageError(f"{' x '.join(names)} has {len(grouping.values)} group; a gap needs two")
    columns = [measure.columns(table) for measure in chosen]
    count, large = len(grouping.values), grouping.counts >= least
    sums_of = partial(_resampled, index=grouping.index, groups=count)
    resampled = _drawn(chosen, columns, count, draws, seed, sums_of)
    shuffled = _shuffled(table, grouping, chosen, columns, large, draws, seed)
    figures, overall, gaps = {}, {}, []
    for measure, own, (by_group, of_all), chance in zip(chosen, columns, resampled, shuffled, strict=True):
        sums = group_sums(own, grouping.index, count)
        figures[measure.name] = [
            _figure(measure, group, int(n), sums[g], by_group[:, g])
            for g, (group, n) in enumerate(zip(grouping.values, grouping.counts, strict=True))
        ]
        overall[measure.name] = _figure(measure, (), int(grouping.counts.sum()), sums.sum(axis=0), of_all)
        gaps.append(_gap(measure, grouping, least, sums, by_group, chance))
    small = [group for group, enough in zip(grouping.values, large, strict=True) if not enough]
    return GroupReport(
        tuple(names), figures, overall, {gap.measure: gap for gap in holm(gaps)}, small,
        int((grouping.index < 0).sum()), draws,
    )  # fmt: skip


def _drawn(
    measures: Sequence[Measure],
    columns: Sequence[Float[np.ndarray, "N _"]],
    groups: int,
    draws: int,
    seed: int,
    sums_of: Callable[[Float[np.ndarray, "N K"], int, int], Float[np.ndarray, "D G K"]],
) -> list[tuple[Float[np.ndarray, "D G"], Float[np.ndarray, "D"]]]:
    """Values of each measure by group and over all groups, for every draw; the sums are held a block at a time.

    Args:
        measures, columns: K columns of all measures together. groups: G. draws: D. seed: of all blocks.
        sums_of: from the columns, a number of draws and the seed of a block to its sums.
    """
    held, cuts = np.concatenate(columns, axis=1), np.cumsum([part.shape[1] for part in columns])[:-1]
    step = max(1, min(draws, HELD // (groups * held.shape[1])))
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in measures]
    for number, start in enumerate(range(0, draws, step)):
        own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        sums = sums_of(held, min(step, draws - start), own)  # (block, G, K)
        for parts, measure, part in zip(found, measures, np.split(sums, cuts, axis=-1), strict=True):
            parts.append((measure.value(part), measure.value(part.sum(axis=1))))
    return [(np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])) for parts in found]


def _shuffled(
    table: PredictionTable,
    grouping: Grouping,
    measures: Sequence[Measure],
    columns: Sequence[Float[np.ndarray, "N _"]],
    large: Bool[np.ndarray, "G"],
    draws: int,
    seed: int,
) -> list[Float[np.ndarray, "D G"]]:
    """Values of each measure over shuffled groups, those alone that are compared; one pass for all of one `given`."""
    compared = np.where((grouping.index >= 0) & large[grouping.index], grouping.index, -1)
    found: dict[int, Float[np.ndarray, "D G"]] = {}
    for given in dict.fromkeys(measure.given for measure in measures):
        mine = [number for number, measure in enumerate(measures) if measure.given == given]
        within = None if given is None else table.target if given == "target" else table.predicted
        sums_of = partial(_permuted, index=compared, groups=len(grouping.values), within=within)
        values = _drawn(
            [measures[n] for n in mine], [columns[n] for n in mine], len(grouping.values), draws, seed, sums_of
        )
        found |= {number: by_group for number, (by_group, _) in zip(mine, values, strict=True)}
    return [found[number] for number in range(len(measures))]


def _resampled(
    held: Float[np.ndarray, "N K"], draws: int, seed: int, *, index: Int[np.ndarray, "N"], groups: int
) -> Float[np.ndarray, "D G K"]:
    return bootstrap_sums(held, index, groups, draws, seed)


def _permuted(
    held: Float[np.ndarray, "N K"],
    draws: int,
    seed: int,
    *,
    index: Int[np.ndarray, "N"],
    groups: int,
    within: Int[np.ndarray, "N"] | None,
) -> Float[np.ndarray, "D G K"]:
    return permuted_sums(held, index, groups, draws, seed, within=within)


def _figure(
    measure: Measure, group: tuple[Any, ...], n: int, sums: Float[np.ndarray, "K"], drawn: Float[np.ndarray, "D"]
) -> GroupFigure:
    value = float(measure.value(sums))
    if math.isnan(value):
        return GroupFigure(group, n, value, math.nan, math.nan, measure.undefined)
    if measure.share:
        ends = wilson(sums[0], sums[1])
        return GroupFigure(group, n, value, float(ends[0]), float(ends[1]))
    low, high, reason = _interval(drawn)
    return GroupFigure(group, n, value, low, high, reason)


def _interval(values: Float[np.ndarray, "D"]) -> tuple[float, float, str]:
    missing = float(np.isnan(values).mean())
    if missing > UNDEFINED:
        return math.nan, math.nan, f"undefined in {missing:.0%} of resamples: too few rows for an interval"
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high), ""


def _gap(
    measure: Measure,
    grouping: Grouping,
    least: int,
    sums: Float[np.ndarray, "G K"],
    drawn: Float[np.ndarray, "D G"],
    shuffled: Float[np.ndarray, "D G"],
) -> GroupGap:
    large = grouping.counts >= least
    compared = np.where(large, measure.value(sums), np.nan)
    nan, told = math.nan, int((~np.isnan(compared)).sum())
    if told < 2:
        why = f"fewer than two groups have {number_of(least, 'row')}"
        if large.sum() > 1:
            why = f"fewer than two groups of {number_of(least, 'row')} have a value ({measure.undefined} in the others)"
        return GroupGap(measure.name, nan, nan, nan, nan, nan, (), (), nan, nan, nan, reason=why)
    found = float(difference(compared))
    there = ~np.isnan(compared)  # the same groups in every draw
    chance = difference(shuffled[:, there])
    chance = chance[~np.isnan(chance)]
    smallest = _share_deviation(sums[there]) if measure.share else 0.0
    low, high = gap_interval(compared[there], drawn[:, there], smallest)
    high = min(high, measure.most)
    p = (1 + int((chance >= found - 1e-12).sum())) / (1 + len(chance))
    middle, upper = (float(chance.mean()), float(np.quantile(chance, 0.95))) if len(chance) else (nan, nan)
    return GroupGap(
        measure.name, found, low, high, float(ratio(compared)), float(np.nanstd(compared)),
        grouping.values[int(np.nanargmin(compared))], grouping.values[int(np.nanargmax(compared))],
        middle, upper, p,
    )  # fmt: skip


def _share_deviation(sums: Float[np.ndarray, "g 2"]) -> Float[np.ndarray, "g"]:
    """Standard deviation of shares with two of either kind added, which is not 0 where all rows agree."""
    share, count = (sums[:, 0] + 2) / (sums[:, 1] + 4), sums[:, 1] + 4
    return np.sqrt(share * (1 - share) / count)


def gap_interval(
    values: Float[np.ndarray, "G"],
    drawn: Float[np.ndarray, "D G"],
    least: Float[np.ndarray, "G"] | float = 0.0,
) -> tuple[float, float]:
    """95 % interval of the largest difference between the true values of any two groups.

    Percentiles of the largest difference in resamples lie above it: noise alone makes one. So all pairs get an interval
    at once, as Tukey's are: c is the 95 % quantile, over resamples, of the largest deviation of any pair's difference
    from its value, in standard deviations s of that pair. Then the largest true difference lies between the largest
    value minus c s (0 where that is negative) and the largest value plus c s.

    Args:
        values: of the groups, none NaN.
        drawn: of their resamples; NaN where undefined.
        least: smallest standard deviation of each group.
    """
    one, other = np.triu_indices(len(values), 1)
    own = np.maximum(np.nanstd(drawn, axis=0), least)
    spread, apart = np.sqrt(own[one] ** 2 + own[other] ** 2), np.abs(values[one] - values[other])
    wide = np.maximum(spread, 1e-12)
    moved = drawn - values
    step = max(1, 2_000_000 // len(one))
    largest = np.concatenate([
        np.nanmax(np.abs(part[:, one] - part[:, other]) / wide, axis=1, initial=0.0)
        for part in (moved[start : start + step] for start in range(0, len(moved), step))
    ])  # fmt: skip
    reach = np.quantile(largest, 0.95) * spread
    return max(0.0, float((apart - reach).max())), float((apart + reach).max())


def holm(gaps: Sequence[GroupGap]) -> list[GroupGap]:
    """The gaps with `p_adjusted` by Holm's step-down method over those that have a p-value.

    Paper: Holm, A simple sequentially rejective multiple test procedure (Scandinavian Journal of Statistics, 1979).
    """
    told = sorted((gap.p, number) for number, gap in enumerate(gaps) if not math.isnan(gap.p))
    adjusted, most = dict.fromkeys(range(len(gaps)), math.nan), 0.0
    for place, (p, number) in enumerate(told):
        most = max(most, min(1.0, (len(told) - place) * p))
        adjusted[number] = most
    return [replace(gap, p_adjusted=adjusted[number]) for number, gap in enumerate(gaps)]


def wilson(
    right: Float[np.ndarray, "*batch"] | float, count: Float[np.ndarray, "*batch"] | float
) -> tuple[Float[np.ndarray, "*batch"], Float[np.ndarray, "*batch"]]:
    """Limits of Wilson's 95 % interval of shares; NaN where nothing was counted.

    Args:
        right: how many.
        count: of how many.
    """
    z = float(norm.ppf(0.975))
    right, count = np.asarray(right, dtype=float), np.asarray(count, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        share = right / count
        middle = (share + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return np.asarray(np.clip(middle - half, 0.0, 1.0)), np.asarray(np.clip(middle + half, 0.0, 1.0))


def _label(group: tuple[Any, ...]) -> str:
    return " / ".join(map(str, group))
