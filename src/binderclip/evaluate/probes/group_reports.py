"""`GroupReport`: measures of every group, their gaps with intervals, and what gaps chance alone would make."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.stats import norm

from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.evaluate.probes.gaps import difference, ratio
from binderclip.evaluate.probes.group_figures import GroupFigure, GroupGap, GroupReport
from binderclip.evaluate.probes.measures import Measure, accuracy, calibration_error_measure, mean_confidence
from binderclip.evaluate.probes.resampling import (
    ShuffleRoom,
    bootstrap_sums,
    group_sums,
    permuted_sums,
    shuffle_room,
)
from binderclip.evaluate.probes.table import Grouping, PredictionTable
from binderclip.settings import check_choice

LEAST = 10
"""Rows below which a group is listed and takes no part in a gap: its value says next to nothing."""
HELD = 8_000_000
"""Sums that are held at once, all draws, groups and columns together."""
Null: TypeAlias = Literal["given", "all"]
MOVABLE = 0.5
"""Share of rows that shuffles should be able to move; what can move fewer is said."""
ALIKE = 1e-12
"""Differences below this are of rounding."""
UNDEFINED = 0.05
"""Largest share of resamples in which a figure may be undefined and still get an interval."""


def group_report(
    table: PredictionTable,
    *names: str,
    measures: Sequence[Measure] = (),
    draws: int = 1000,
    least: int = LEAST,
    seed: int = 0,
    null: Null = "given",
) -> GroupReport:
    """Measure every group of a table and how far the groups are apart, with intervals and a permutation baseline.

    Args:
        table: the predictions.
        names: attributes whose combinations are the groups.
        measures: default accuracy, mean confidence and the calibration error.
        draws: resamples, and permutations; at least 100.
        least: rows that a group needs to take part in a gap.
        seed: of the draws.
        null: what chance alone is taken to be: "given" shuffles groups among the rows of one class where the measure
            says so (`Measure.given`), "all" among all rows, which then holds an unequal mix of classes against the
            predictor. Where every class lies in one group, "given" can move nothing, and the gap is not tested.

    Raises:
        UsageError: no attribute, too few draws, a measure twice, an unknown null, or fewer than two groups.
    """
    check_choice("null", null, ("given", "all"))
    chosen = list(measures) or [accuracy(), mean_confidence(), calibration_error_measure()]
    tested = [replace(measure, given=None) for measure in chosen] if null == "all" else chosen
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
    shuffled = _shuffled(table, grouping, tested, columns, large, draws, seed)
    figures, overall, gaps = {}, {}, []
    for measure, own, (by_group, of_all), chance in zip(chosen, columns, resampled, shuffled, strict=True):
        sums = group_sums(own, grouping.index, count)
        figures[measure.name] = [
            _figure(measure, group, int(n), sums[g], by_group[:, g])
            for g, (group, n) in enumerate(zip(grouping.values, grouping.counts, strict=True))
        ]
        overall[measure.name] = _figure(measure, (), int(grouping.counts.sum()), sums.sum(axis=0), of_all)
        gaps.append(_gap(measure, grouping, least, sums, by_group, *chance))
    small = [group for group, enough in zip(grouping.values, large, strict=True) if not enough]
    return GroupReport(
        tuple(names), figures, overall, {gap.measure: gap for gap in holm(gaps)}, small,
        int((grouping.index < 0).sum()), draws, null,
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
    draws_of: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in measures]
    for number, start in enumerate(range(0, draws, step)):
        own = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
        sums = sums_of(held, min(step, draws - start), own)  # (block, G, K)
        for parts, measure, part in zip(draws_of, measures, np.split(sums, cuts, axis=-1), strict=True):
            parts.append((measure.value(part), measure.value(part.sum(axis=1))))
    return [(np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])) for parts in draws_of]


def _shuffled(
    table: PredictionTable,
    grouping: Grouping,
    measures: Sequence[Measure],
    columns: Sequence[Float[np.ndarray, "N _"]],
    large: Bool[np.ndarray, "G"],
    draws: int,
    seed: int,
) -> list[tuple[Float[np.ndarray, "D G"], str, str]]:
    """Values of each measure over shuffled groups, those alone that are compared; one pass for all of one `given`.

    With each why its shuffles tell nothing, and what weakens them.
    """
    compared = np.where((grouping.index >= 0) & large[grouping.index], grouping.index, -1)
    null_of: dict[int, tuple[Float[np.ndarray, "D G"], str, str]] = {}
    for given in dict.fromkeys(measure.given for measure in measures):
        mine = [number for number, measure in enumerate(measures) if measure.given == given]
        within = None if given is None else table.target if given == "target" else table.predicted
        rooms = [shuffle_room(columns[n], compared, len(grouping.values), within=within) for n in mine]
        sums_of = partial(_permuted, index=compared, groups=len(grouping.values), within=within)
        values = _drawn(
            [measures[n] for n in mine], [columns[n] for n in mine], len(grouping.values), draws, seed, sums_of
        )
        null_of |= {
            number: (by_group, *_told_of(room, given))
            for number, (by_group, _), room in zip(mine, values, rooms, strict=True)
        }
    return [null_of[number] for number in range(len(measures))]


def _told_of(room: ShuffleRoom, given: str | None) -> tuple[str, str]:
    """Why shuffles within these strata tell nothing, and what weakens them."""
    kind, other = f"{'true' if given == 'target' else 'predicted'} class", "; null='all' shuffles all rows"
    if room.arrangements <= 1 and given is not None:
        return f"every {kind} lies in one group, so that shuffles within it change nothing{other}", ""
    if 1 / room.arrangements > 0.05:
        ways = number_of(int(room.arrangements), "arrangement")
        return f"shuffles give {ways}, so that no gap can be told from chance{'' if given is None else other}", ""
    if room.movable < MOVABLE:
        return "", f"shuffles move {room.movable:.0%} of the rows: each {kind} of the others lies in one group{other}"
    return "", ""


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
    if np.nanmax(values) - np.nanmin(values) < ALIKE:
        return math.nan, math.nan, "all resamples are alike, so that they give no interval"
    low, high = np.nanquantile(values, [0.025, 0.975])
    return float(low), float(high), ""


def _gap(
    measure: Measure,
    grouping: Grouping,
    least: int,
    sums: Float[np.ndarray, "G K"],
    drawn: Float[np.ndarray, "D G"],
    shuffled: Float[np.ndarray, "D G"],
    untested: str,
    note: str,
) -> GroupGap:
    large = grouping.counts >= least
    compared = np.where(large, measure.value(sums), np.nan)
    nan, count = math.nan, int((~np.isnan(compared)).sum())
    if count < 2:
        why = f"fewer than two groups have {number_of(least, 'row')}"
        if large.sum() > 1:
            why = f"fewer than two groups of {number_of(least, 'row')} have a value ({measure.undefined} in the others)"
        return GroupGap(measure.name, nan, nan, nan, nan, nan, (), (), nan, nan, nan, reason=why)
    difference_of = float(difference(compared))
    there = ~np.isnan(compared)  # the same groups in every draw
    chance = difference(shuffled[:, there])
    chance = chance[~np.isnan(chance)]
    smallest = _share_deviation(sums[there]) if measure.share else 0.0
    low, high = gap_interval(compared[there], drawn[:, there], smallest)
    high = min(high, measure.most)
    p = (1 + int((chance >= difference_of - ALIKE).sum())) / (1 + len(chance))
    middle, upper = (float(chance.mean()), float(np.quantile(chance, 0.95))) if len(chance) else (nan, nan)
    if not untested and difference_of > ALIKE and (np.abs(chance - difference_of) < ALIKE).all():
        untested = "every shuffle has this same gap, so that it cannot be told from chance"
    if untested:
        p = middle = upper = nan
    if not measure.share and (np.ptp(drawn[:, there], axis=0) < ALIKE).any():
        low, high, note = nan, nan, note or "all resamples of a group are alike, so that they give no interval"
    return GroupGap(
        measure.name, difference_of, low, high, float(ratio(compared)), float(np.nanstd(compared)),
        grouping.values[int(np.nanargmin(compared))], grouping.values[int(np.nanargmax(compared))],
        middle, upper, p, untested=untested, note=note,
    )  # fmt: skip


def _share_deviation(sums: Float[np.ndarray, "g 2"]) -> Float[np.ndarray, "g"]:
    """Standard deviation of shares with two of either kind added, which is not 0 where all rows agree."""
    rate, count = (sums[:, 0] + 2) / (sums[:, 1] + 4), sums[:, 1] + 4
    return np.sqrt(rate * (1 - rate) / count)


def gap_interval(
    values: Float[np.ndarray, "G"],
    drawn: Float[np.ndarray, "D G"],
    least: Float[np.ndarray, "G"] | float = 0.0,
) -> tuple[float, float]:
    """95 % interval of the largest difference between the true values of any two groups.

    Percentiles of the largest difference in resamples lie above it: noise alone makes one. So all pairs get an interval
    at once, as Tukey's are: c is the 95 % quantile, over resamples, of the largest deviation of any pair's difference
    from its value, in standard deviations s of that pair. Then the largest true difference lies between the largest
    value minus c s (0 where that is negative) and the largest value plus c s. Where resamples of a group vary less than
    `least`, c is at least that of the normal distribution.

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
    width = float(np.quantile(largest, 0.95))
    # where a group's resamples vary less than it can be known, as where all of its rows are right, they give no width
    if (np.nanstd(drawn, axis=0) < least).any():
        width = max(width, float(norm.ppf(0.975)))
    reach = width * spread
    return max(0.0, float((apart - reach).max())), float((apart + reach).max())


def holm(gaps: Sequence[GroupGap]) -> list[GroupGap]:
    """The gaps with `p_adjusted` by Holm's step-down method over those that have a p-value.

    Paper: Holm, A simple sequentially rejective multiple test procedure (Scandinavian Journal of Statistics, 1979).
    """
    tested = sorted((gap.p, number) for number, gap in enumerate(gaps) if not math.isnan(gap.p))
    adjusted, most = dict.fromkeys(range(len(gaps)), math.nan), 0.0
    for place, (p, number) in enumerate(tested):
        most = max(most, min(1.0, (len(tested) - place) * p))
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
        rate = right / count
        middle = (rate + z * z / (2 * count)) / (1 + z * z / count)
        half = z / (1 + z * z / count) * np.sqrt(rate * (1 - rate) / count + z * z / (4 * count * count))
    return np.asarray(np.clip(middle - half, 0.0, 1.0)), np.asarray(np.clip(middle + half, 0.0, 1.0))
