"""Measures of a table of predictions, each a function of sums over rows.

A measure says which numbers every row brings (its columns) and what the value is of their sums. So the value of any
group, of any resample and of any permutation comes from one product of a matrix with the columns, for all measures at
once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, Int

from binderclip.errors import UsageError
from binderclip.evaluate.probes.table import PredictionTable
from binderclip.numeric import check_number
from binderclip.segment.metrics.calibration import bin_index

Sums = Float[np.ndarray, "*batch K"]


@dataclass(frozen=True)
class Measure:
    """A figure of a set of rows.

    Args:
        name: as it is printed.
        columns: from the table to (N, K): what each row brings.
        value: from sums (..., K) to values (...); NaN where it is undefined.
        undefined: why it may be undefined.
        given: what two groups may differ in without a gap being held against the predictor. Permutations keep it:
            "target" (the mix of true classes), "predicted", or None.
        share: the columns are (of these, all), whose ratio is the value: its interval is Wilson's.
        higher_is_better: None where neither is.
        most: the largest value there can be; the smallest is 0.
    """

    name: str
    columns: Callable[[PredictionTable], Float[np.ndarray, "N K"]]
    value: Callable[[Sums], Float[np.ndarray, "*batch"]]
    undefined: str
    given: Literal["target", "predicted"] | None = None
    share: bool = False
    higher_is_better: bool | None = None
    most: float = 1.0


def _divided(sums: Sums) -> Float[np.ndarray, "*batch"]:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sums[..., 1] > 0, sums[..., 0] / sums[..., 1], np.nan)


def _share(
    name: str,
    these: Callable[[PredictionTable], np.ndarray],
    among: Callable[[PredictionTable], np.ndarray],
    undefined: str,
    given: Literal["target", "predicted"] | None = None,
    higher_is_better: bool | None = None,
) -> Measure:
    def columns(table: PredictionTable) -> Float[np.ndarray, "N 2"]:
        some = among(table).astype(bool)
        return np.stack([these(table).astype(bool) & some, some], axis=1).astype(np.float64)

    return Measure(name, columns, _divided, undefined, given, True, higher_is_better)


def accuracy() -> Measure:
    """Share of rows with a target whose predicted class it is."""
    return _share("accuracy", lambda t: t.correct, lambda t: t.known, "no row with a target", "target", True)


def top_k_accuracy(k: int = 5) -> Measure:
    """Share of rows with a target that has fewer than `k` classes with a larger or equal score; NaN is no hit.

    Raises:
        UsageError: k below 1.
    """
    check_number("k", k, least=1)

    def hit(table: PredictionTable) -> np.ndarray:
        own = np.take_along_axis(table.scores, np.maximum(table.target, 0)[:, None], axis=1)
        others = (table.scores >= own).sum(axis=1) - 1
        return (others < k) & ~np.isnan(table.scores).any(axis=1)

    return _share(f"top-{k} accuracy", hit, lambda t: t.known, "no row with a target", "target", True)


def mapped_accuracy(accepted: Mapping[str, Sequence[str]], *, label: str = "label", k: int = 1) -> Measure:
    """Share of rows of which any class that their label is mapped to is among the k with the largest scores.

    For a data set whose labels a model's classes do not match one to one: "stove" may be "stove" or "electric range".
    All of the table's classes compete, those of no label too. Rows whose label has no class do not count. Of equal
    scores the other classes come first.

    Args:
        accepted: label -> classes of the table that are right for it.
        label: attribute that holds the label; by default the name of the target.
        k: 1 or more.

    Raises:
        UsageError: k below 1, a label without a class; when measured, a class that the table does not have.

    Paper: Does Progress On Object Recognition Benchmarks Improve Real-World Generalization? (arXiv 2307.13136).
    """
    check_number("k", k, least=1)
    if empty := [name for name, classes in accepted.items() if isinstance(classes, str) or not classes]:
        raise UsageError(f"label {empty[0]!r} needs a list of one class or more, got {accepted[empty[0]]!r}")

    def right(table: PredictionTable) -> Bool[np.ndarray, "N C"]:
        none = np.zeros(len(table.classes), dtype=bool)
        rows = {
            name: np.isin(np.arange(len(none)), [table.class_index(c) for c in own]) for name, own in accepted.items()
        }
        held = [rows.get(str(value), none) for value in table.column(label)]
        return np.array(held, dtype=bool).reshape(len(table), len(none))

    def hit(table: PredictionTable) -> np.ndarray:
        own = right(table)
        best = np.where(own, table.scores, -np.inf).max(axis=1, initial=-np.inf)
        others = ((table.scores >= best[:, None]) & ~own).sum(axis=1)
        return np.asarray(own.any(axis=1) & (others < k) & ~np.isnan(table.scores).any(axis=1))

    def counts(table: PredictionTable) -> np.ndarray:
        return np.asarray(right(table).any(axis=1))

    name = "mapped accuracy" if k == 1 else f"mapped top-{k} accuracy"
    return _share(name, hit, counts, "no row whose label has a class", "target", True)


def mean_class_accuracy() -> Measure:
    """Accuracy of each class that occurs, averaged over classes: what differs in class mix can be compared by it."""

    def columns(table: PredictionTable) -> Float[np.ndarray, "N K"]:
        own = np.eye(len(table.classes) + 1)[table.target][:, :-1]  # (N, C); -1 is the last row, all zeros
        return np.concatenate([own * table.correct[:, None], own], axis=1)

    def value(sums: Sums) -> Float[np.ndarray, "*batch"]:
        right, count = np.split(sums, 2, axis=-1)
        there = count > 0
        each = np.divide(right, count, out=np.zeros_like(right), where=there)
        number = there.sum(axis=-1)
        return np.where(number > 0, each.sum(axis=-1) / np.maximum(number, 1), np.nan)

    return Measure("mean class accuracy", columns, value, "no row with a target", "target", False, True)


def mean_confidence() -> Measure:
    """Mean probability of the predicted class, over rows that have one."""

    def columns(table: PredictionTable) -> Float[np.ndarray, "N 2"]:
        confidence = table.confidence()
        there = ~np.isnan(confidence)
        return np.stack([np.where(there, confidence, 0.0), there.astype(float)], axis=1)

    return Measure("mean confidence", columns, _divided, "no row with a prediction")


def calibration_error_measure(bins: int = 15, *, adaptive: bool = False, right: bool = True) -> Measure:
    """Expected calibration error of the predicted class: sum over bins of n_b / n |accuracy_b - confidence_b|.

    Guo et al., On Calibration of Modern Neural Networks (2017); bins of equal numbers: Nguyen and O'Connor, EMNLP 2015.

    Args:
        bins: equal widths; or, adaptive, parts of the whole table, sorted by
            confidence, of equal numbers: at most a fifth of the rows. A group or a resample is seen through the bins of
            the whole table.
        adaptive: bins of equal numbers.
        right: a confidence on an edge belongs to the bin below, else to the one above.

    Raises:
        UsageError: no bin.
    """
    check_number("bins", bins, least=1)

    def columns(table: PredictionTable) -> Float[np.ndarray, "N K"]:
        confidence = table.confidence()
        there = table.known & ~np.isnan(confidence)
        which = _equal_numbers(confidence, there, bins) if adaptive else bin_index(confidence, bins, right=right)
        held = np.zeros((len(table), bins + 1))
        rows = np.flatnonzero(there)
        # n_b (accuracy_b - confidence_b) is a sum over the rows of the bin
        held[rows, which[rows]] = (table.correct - confidence)[rows]
        held[rows, -1] = 1.0
        return held

    def value(sums: Sums) -> Float[np.ndarray, "*batch"]:
        count = sums[..., -1]
        with np.errstate(invalid="ignore"):
            return np.where(count > 0, np.abs(sums[..., :-1]).sum(axis=-1) / np.maximum(count, 1), np.nan)

    name = "adaptive calibration error" if adaptive else "calibration error"
    return Measure(name, columns, value, "no row with a target and a prediction", None, False, False)


def _equal_numbers(confidence: Float[np.ndarray, "N"], there: np.ndarray, bins: int) -> Int[np.ndarray, "N"]:
    rows = np.flatnonzero(there)
    order = rows[np.argsort(confidence[rows], kind="stable")]
    which = np.zeros(len(confidence), dtype=np.int64)
    for number, part in enumerate(np.array_split(order, min(bins, max(1, len(order) // 5)))):
        which[part] = number
    return which


def _is(table: PredictionTable, name: str) -> np.ndarray:
    return table.target == table.class_index(name)


def _said(table: PredictionTable, name: str) -> np.ndarray:
    return table.predicted == table.class_index(name)


def selection_rate_measure(positive: str) -> Measure:
    """Share of rows that are predicted to be of the positive class."""
    return _share(
        f"selection rate ({positive})", lambda t: _said(t, positive), lambda t: t.predicted >= 0,
        "no row with a prediction",
    )  # fmt: skip


def true_positive_rate_measure(positive: str) -> Measure:
    """Share of the rows of the positive class that are predicted to be (recall, sensitivity)."""
    return _share(
        f"true positive rate ({positive})", lambda t: _said(t, positive), lambda t: _is(t, positive),
        f"no row of the class {positive!r}", "target", True,
    )  # fmt: skip


def false_positive_rate_measure(positive: str) -> Measure:
    """Share of the rows of other classes that are predicted to be of the positive one."""
    return _share(
        f"false positive rate ({positive})", lambda t: _said(t, positive), lambda t: t.known & ~_is(t, positive),
        f"no row of a class other than {positive!r}", "target", False,
    )  # fmt: skip


def positive_predictive_value_measure(positive: str) -> Measure:
    """Share of the rows predicted to be of the positive class that are (precision)."""
    return _share(
        f"positive predictive value ({positive})", lambda t: _is(t, positive),
        lambda t: t.known & _said(t, positive), f"no row predicted to be {positive!r}", "predicted", True,
    )  # fmt: skip
