"""Many models on several benchmarks: rates of progress, gaps of groups, robustness beyond what accuracy predicts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Float
from scipy.special import expit, logit
from scipy.stats import t

from binderclip.errors import UsageError
from binderclip.evaluate.probes.gaps import difference
from binderclip.evaluate.probes.group_reports import wilson
from binderclip.evaluate.probes.table import PredictionTable
from binderclip.settings import check_choice

Scale: TypeAlias = Literal["linear", "logit"]
Unit: TypeAlias = Literal["scale", "accuracy"]


@dataclass(frozen=True)
class Line:
    """Least-squares line of one accuracy on another, over models.

    Attributes:
        slope, intercept: on the chosen scale.
        low, high: 95 % interval of the slope by Student's t; NaN for two models.
        residuals: (M,) of the models the line was fitted to, on that scale.
        n: models.
    """

    slope: float
    intercept: float
    low: float
    high: float
    residuals: Float[np.ndarray, "M"]
    n: int


def fit_line(x: Any, y: Any, *, scale: Scale = "linear") -> Line:
    """Fit y on x over models.

    Args:
        x, y: (M,) accuracies, in [0, 1].
        scale: "logit" transforms both first, so that accuracies of 0 and 1 are refused.

    Raises:
        UsageError: fewer than two models, lengths that differ, values outside the scale, or all x alike.
    """
    first, second = _scaled(x, scale), _scaled(y, scale)
    if first.shape != second.shape or len(first) < 2 or not np.ptp(first) > 0:
        raise UsageError(f"a line needs two models or more that differ in x; got {first.shape} and {second.shape}")
    n, middle = len(first), first.mean()
    spread = float(((first - middle) ** 2).sum())
    slope = float(((first - middle) * (second - second.mean())).sum() / spread)
    intercept = float(second.mean() - slope * middle)
    residuals = second - intercept - slope * first
    if n < 3:
        return Line(slope, intercept, np.nan, np.nan, residuals, n)
    half = float(t.ppf(0.975, n - 2) * np.sqrt((residuals**2).sum() / (n - 2) / spread))
    return Line(slope, intercept, slope - half, slope + half, residuals, n)


def progress_rate(reference: Any, benchmark: Any, *, scale: Scale = "linear") -> Line:
    """Slope of the accuracy on a benchmark over that on a reference, over models: how fast progress carries over.

    Paper: Does Progress On Object Recognition Benchmarks Improve Real-World Generalization? (arXiv 2307.13136).

    Args:
        reference: (M,) accuracies of models on the reference, such as ImageNet.
        benchmark: (M,) of the same models on the benchmark.
        scale: as in `fit_line`.

    Raises:
        UsageError: as `fit_line`.
    """
    return fit_line(reference, benchmark, scale=scale)


@dataclass(frozen=True)
class ProgressGap:
    """Ratio of two rates of progress, 1 where they are alike, with its 95 % interval by the bootstrap over families.

    The interval is NaN for fewer than three families, whose resamples are all alike.
    """

    ratio: float
    low: float
    high: float


def progress_gap(
    reference: Any, standard: Any, geographic: Any, *, families: Any = None, scale: Scale = "linear",
    draws: int = 2000, seed: int = 0,
) -> ProgressGap:  # fmt: skip
    """How many times faster models progress on a standard benchmark than on one of the real world.

    Paper: Does Progress On Object Recognition Benchmarks Improve Real-World Generalization? (arXiv 2307.13136).

    Args:
        reference, standard, geographic: (M,) accuracies of the same models.
        families: (M,) what models are resampled together by, since models of a family are no independent witnesses;
            None: each by itself.
        scale: as in `fit_line`.
        draws: resamples; those whose models all have one reference accuracy are left out.
        seed: of the resamples.

    Raises:
        UsageError: as `fit_line`, families of another length, or no progress at all on `geographic`.
    """
    x, a, b = (_scaled(values, scale) for values in (reference, standard, geographic))
    rates = [fit_line(reference, values, scale=scale).slope for values in (standard, geographic)]
    if abs(rates[1]) < 1e-12:
        raise UsageError(
            "geographic does not rise with reference over these models: the ratio to its rate is undefined"
        )
    ratio = rates[0] / rates[1]
    owners = np.arange(len(x)) if families is None else np.unique(np.asarray(families), return_inverse=True)[1]
    if len(owners) != len(x):
        raise UsageError(f"families must have one value a model, {len(x)}; got {len(owners)}")
    count = int(owners.max()) + 1
    if count < 3:
        return ProgressGap(float(ratio), np.nan, np.nan)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), draws)  # (D, F)
    weight = times[:, owners].astype(float)
    weight /= weight.sum(axis=1, keepdims=True)
    centred = x - (weight @ x)[:, None]  # (D, M)
    usable = (weight * centred**2).sum(axis=1) > 1e-12
    # the variance of x cancels in the ratio of both slopes
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = ((weight * centred) @ a / ((weight * centred) @ b))[usable]
    low, high = np.nanquantile(ratios, [0.025, 0.975])
    return ProgressGap(float(ratio), float(low), float(high))


def group_disparity(accuracies: Float[np.ndarray, "M G"]) -> Float[np.ndarray, "M"]:
    """Largest minus smallest accuracy over groups, such as regions of the world, of each model.

    Paper: Does Progress On Object Recognition Benchmarks Improve Real-World Generalization? (arXiv 2307.13136).

    Args:
        accuracies: of M models in G groups; NaN where a group has no picture.

    Raises:
        UsageError: not a table of two groups or more.
    """
    table = np.asarray(accuracies, dtype=float)
    if table.ndim != 2 or table.shape[1] < 2:
        raise UsageError(f"accuracies must be (models, groups), two groups or more; got {table.shape}")
    return difference(table)


def effective_robustness(
    easy: Any, hard: Any, reference: Any = None, *, scale: Scale = "logit", unit: Unit = "scale"
) -> Float[np.ndarray, "M"]:
    """How far each model's accuracy on the hard set lies above the line of a family of reference models.

    Taori et al. fit the line in log-odds and report the difference of accuracies: rho = acc_hard - beta(acc_easy),
    which is `unit="accuracy"`. The default is the distance on the scale of the line, so log-odds with "logit".

    Raw drops are no measure of robustness where models differ on the easy set.

    Papers: Taori et al., Measuring Robustness to Natural Distribution Shifts in Image Classification (NeurIPS 2020,
    arXiv 2007.00644); used by Do CLIPs Always Generalize Better than ImageNet Models? (arXiv 2403.11497).

    Args:
        easy, hard: (M,) accuracies of the same models.
        reference: (M,) which of them the line is fitted to; None: all.
        scale: of the line, as in `fit_line`.
        unit: of what is returned: "scale" for that of the line, "accuracy" for accuracies, in [-1, 1].

    Raises:
        UsageError: as `fit_line`, or an unknown unit.
    """
    check_choice("unit", unit, ("scale", "accuracy"))
    x, y = _scaled(easy, scale), _scaled(hard, scale)
    chosen = np.ones(len(x), dtype=bool) if reference is None else np.asarray(reference, dtype=bool)
    if not x.shape == y.shape == chosen.shape:
        raise UsageError(f"easy, hard and reference must be (M,); got {x.shape}, {y.shape} and {chosen.shape}")
    line = fit_line(np.asarray(easy, dtype=float)[chosen], np.asarray(hard, dtype=float)[chosen], scale=scale)
    predicted = line.intercept + line.slope * x
    if unit == "accuracy" and scale == "logit":
        return expit(y) - expit(predicted)
    return y - predicted


@dataclass(frozen=True)
class GroupDrop:
    """Accuracy on common and on counter examples, each averaged over the classes that have both.

    Made by `group_drop`. Paper: Do CLIPs Always Generalize Better than ImageNet Models? (arXiv 2403.11497).

    Attributes:
        common, counter: mean over classes.
        by_class: class -> (accuracy on common examples, on counter examples).
        low, high: 95 % interval of the drop, over pictures within each class and group, see `group_drop`.
        left_out: classes that lack one of both.
    """

    common: float
    counter: float
    by_class: dict[str, tuple[float, float]]
    low: float
    high: float
    left_out: list[str]

    @property
    def drop(self) -> float:
        """Accuracy on common minus that on counter examples."""
        return self.common - self.counter


def group_drop(table: PredictionTable, name: str, common: Any, counter: Any) -> GroupDrop:
    """How much accuracy is lost from usual to unusual backgrounds, class by class.

    Groups that were chosen by a model on these same pictures overstate its drop: choose them on others.

    The interval combines Wilson's of every class and group: its lower end is the drop minus the root of the sum of
    squared distances of the shares to their limits, towards a smaller drop (Newcombe, Statistics in Medicine 1998, for
    one class; Zou, Huang and Zhang, Computational Statistics and Data Analysis 2009). So it has a width where all
    pictures of a group are right, as resamples of these have none.

    Paper: Do CLIPs Always Generalize Better than ImageNet Models? (arXiv 2403.11497).

    Args:
        table: the predictions; the label space is the same for both groups.
        name: the attribute. common, counter: two of its values.

    Raises:
        UsageError: an unknown attribute, a value that no row has, or no class with both.
    """
    values = table.column(name)
    for value in (common, counter):
        if value not in values:
            raise UsageError(f"no row has {name} = {value!r}")
    group = np.array([0 if value == common else 1 if value == counter else -1 for value in values])
    right = table.correct
    by_class: dict[str, tuple[float, float]] = {}
    left_out, down, up = [], 0.0, 0.0
    for number, label in enumerate(table.classes):
        rows = [right[(table.target == number) & (group == g)] for g in (0, 1)]
        if not len(rows[0]) or not len(rows[1]):
            if len(rows[0]) + len(rows[1]):
                left_out.append(label)
            continue
        by_class[label] = (float(rows[0].mean()), float(rows[1].mean()))
        (least, most), (other_least, other_most) = (wilson(float(own.sum()), len(own)) for own in rows)
        first, second = by_class[label]
        down += float((first - least) ** 2 + (other_most - second) ** 2)
        up += float((most - first) ** 2 + (second - other_least) ** 2)
    if not by_class:
        raise UsageError(f"no class has pictures of both {common!r} and {counter!r}")
    usual, unusual = np.array(list(by_class.values())).mean(axis=0).tolist()
    low, high = usual - unusual - np.sqrt(down) / len(by_class), usual - unusual + np.sqrt(up) / len(by_class)
    return GroupDrop(usual, unusual, by_class, float(low), float(high), left_out)


def limited_options(table: PredictionTable, reference: PredictionTable, *, options: int = 20) -> PredictionTable:
    """The same predictions among few options a picture: the right class and those that a reference model favours.

    The options of a class are fixed: of the others those with the largest mean probability by the reference over the
    pictures of the class. The paper's "1 vs. 20".

    Paper: Do CLIPs Always Generalize Better than ImageNet Models? (arXiv 2403.11497).

    Args:
        table: the predictions; scores of what is no option become -inf, rows without a target stay.
        reference: predictions by the reference model, of the same classes, on any pictures of them.
        options: how many, the right one among them; the paper: 20.

    Raises:
        UsageError: classes differ, fewer than two options or more than classes, or a class that the reference lacks.
    """
    if table.classes != reference.classes:
        raise UsageError("table and reference must have the same classes, in one order")
    if not 2 <= options <= len(table.classes):
        raise UsageError(f"options is {options}; it is 2 to {len(table.classes)}, the number of classes")
    probs, scores = reference.probabilities(), table.scores.copy()
    for label in np.unique(table.target[table.known]).tolist():
        rows = reference.target == label
        if not rows.any():
            raise UsageError(f"the reference has no picture of {table.classes[label]!r}")
        favoured = probs[rows].mean(axis=0)
        favoured[label] = np.inf
        scores[np.ix_(table.target == label, np.argsort(-favoured, kind="stable")[options:])] = -np.inf
    return replace(table, scores=scores)


def _scaled(values: Any, scale: str) -> Float[np.ndarray, "M"]:
    array = np.asarray(values, dtype=float)
    check_choice("scale", scale, ("linear", "logit"))
    inside = (array > 0) & (array < 1) if scale == "logit" else (array >= 0) & (array <= 1)
    if array.ndim != 1 or not inside.all():
        raise UsageError(f"accuracies must be (M,) and in {'(0, 1)' if scale == 'logit' else '[0, 1]'}: {array}")
    return logit(array) if scale == "logit" else array
