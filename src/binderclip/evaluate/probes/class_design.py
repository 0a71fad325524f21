"""What the list of classes does: harm by a class that is missing, labels attached to groups, near misses, identities.

Four probes of a table of predictions. Another list of classes is another selection of its columns, so one pass of the
model serves all of them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from binderclip.errors import UsageError
from binderclip.evaluate.probes.group_reports import wilson
from binderclip.evaluate.probes.table import PredictionTable


@dataclass(frozen=True)
class RateChange:
    """How often a group lands in a set of classes, without and with added ones.

    Attributes:
        group: its values, () for all rows. harm: name of the set of classes. n: rows of the group.
        before, after: shares; `low` and `high` of each are limits of Wilson's 95 % interval.
        gone: rows that an added class took out of the set; none ever comes in.
    """

    group: tuple[Any, ...]
    harm: str
    n: int
    before: float
    before_low: float
    before_high: float
    after: float
    after_low: float
    after_high: float
    gone: int

    @property
    def change(self) -> float:
        """The share after minus that before; never above 0."""
        return self.after - self.before


@dataclass(frozen=True, kw_only=True)
class ClassDesignProbe:
    """How often each group lands in classes that do harm, and what one more class in the list changes.

    The answer is the best of `classes` and all harmful ones, and then of these and `added`. Adding a class never brings
    a row into a harmful set, so a rate can only fall; for whom it falls is what the probe asks.

    Paper: Evaluating CLIP: Towards Characterization of Broader Capabilities and Downstream Implications (arXiv
    2108.02818).

    Args:
        classes: the legitimate ones.
        harmful: name -> classes put next to them. There is no default: which words do harm is the user's to say.
        added: further legitimate classes; empty to measure without a change.

    Raises:
        UsageError: no class, no harmful set, or a class that stands twice.
    """

    classes: Sequence[str]
    harmful: Mapping[str, Sequence[str]]
    added: Sequence[str] = ()

    def __post_init__(self) -> None:
        names = [*self.classes, *(name for own in self.harmful.values() for name in own), *self.added]
        if not self.classes or not self.harmful or not all(self.harmful.values()):
            raise UsageError("a ClassDesignProbe needs classes and at least one set of harmful ones")
        if len(set(names)) != len(names):
            raise UsageError(f"a class stands twice: {', '.join(sorted({n for n in names if names.count(n) > 1}))}")

    def measure(self, table: PredictionTable, *names: str) -> list[RateChange]:
        """One row for every group and harmful set, all rows of the table last.

        Args:
            table: its classes hold all of the probe's.
            names: attributes that make the groups; none: all rows alone.

        Raises:
            UsageError: a class without a column, or an unknown attribute.
        """
        bad = [name for own in self.harmful.values() for name in own]
        spaces = [table.with_classes([*self.classes, *bad, *extra]) for extra in ((), self.added)]
        grouping = table.groups(*names) if names else None
        groups = [(values, grouping.index == g) for g, values in enumerate(grouping.values)] if grouping else []
        groups.append(((), np.ones(len(table), dtype=bool)))
        rows = []
        for values, mine in groups:
            for harm, own in self.harmful.items():
                hits = []
                for space in spaces:
                    columns = [space.class_index(name) for name in own]
                    hits.append(int((np.isin(space.predicted, columns) & mine).sum()))
                n = int(mine.sum())
                (before, low, high), (after, low_after, high_after) = (
                    (hit / n if n else math.nan, *(float(limit) for limit in wilson(hit, n))) for hit in hits
                )
                rows.append(
                    RateChange(values, harm, n, before, low, high, after, low_after, high_after, hits[0] - hits[1])
                )
        return rows


@dataclass(frozen=True)
class LabelAssociation:
    """One label in two groups at one threshold.

    Attributes:
        label: the label. threshold: its probability is at least that where it is attached.
        first, second: rows of each group that it is attached to; n_first, n_second: rows of each.
        chi_square: of the 2 x 2 table with Yates's correction; NaN where nobody or everybody has the label.
        reason: why it is NaN; else empty.
    """

    label: str
    threshold: float
    first: int
    second: int
    n_first: int
    n_second: int
    chi_square: float
    reason: str = ""

    @property
    def difference(self) -> float:
        """Share of the first group that has the label, minus that of the second."""
        return self.first / self.n_first - self.second / self.n_second


@dataclass(frozen=True, kw_only=True)
class LabelAssociationProbe:
    """Which labels of a large vocabulary are attached to one of two groups more than to the other.

    A label is attached where its probability over the whole vocabulary is at least a threshold, so several may be. What
    is attached depends on the threshold: the paper compares 0.5 % and 4 %. They compare within one vocabulary only.

    Paper: Evaluating CLIP: Towards Characterization of Broader Capabilities and Downstream Implications (arXiv
    2108.02818).

    Args:
        thresholds: of the probability.

    Raises:
        UsageError: no threshold, or one outside 0..1.
    """

    thresholds: Sequence[float] = (0.005, 0.04)

    def __post_init__(self) -> None:
        if not len(self.thresholds) or not all(0 <= value <= 1 for value in self.thresholds):
            raise UsageError(f"thresholds must lie in 0..1, at least one: {list(self.thresholds)}")

    def measure(self, table: PredictionTable, name: str) -> list[LabelAssociation]:
        """Every label at every threshold, the largest chi-square first within a threshold, undefined ones last.

        Args:
            table: its classes are the vocabulary. name: an attribute of two values; the first by its text is `first`.

        Raises:
            UsageError: an attribute that has not two values.
        """
        grouping = table.groups(name)
        if len(grouping.values) != 2:
            raise UsageError(f"{name} has {len(grouping.values)} values; a label association compares two groups")
        probs, (n, m) = table.probabilities(), (int(count) for count in grouping.counts)
        rows = []
        for threshold in self.thresholds:
            attached = probs >= threshold  # (N, L)
            counts = np.stack([attached[grouping.index == g].sum(axis=0) for g in (0, 1)], axis=1)  # (L, 2)
            associations = []
            for label, (one, other) in zip(table.classes, counts.tolist(), strict=True):
                value = yates_chi_square(one, n - one, other, m - other)
                all_or_none = "nobody" if one + other == 0 else "everybody"
                reason = f"{all_or_none} has the label" if math.isnan(value) else ""
                associations.append(LabelAssociation(label, float(threshold), one, other, n, m, value, reason))
            rows += sorted(
                associations, key=lambda row: -math.inf if math.isnan(row.chi_square) else row.chi_square, reverse=True
            )
        return rows


def yates_chi_square(a: int, b: int, c: int, d: int) -> float:
    """Chi-square of the table ((a, b), (c, d)) with Yates's correction; NaN where a row or a column is empty."""
    n = a + b + c + d
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if not margins:
        return math.nan
    return n * max(0.0, abs(a * d - b * c) - n / 2) ** 2 / margins


@dataclass(frozen=True)
class NearMissResult:
    """What a close wrong option does.

    Attributes:
        n: pictures.
        without, with_close: share that chooses the right option, without and with the close one.
        close: share that chooses the close one. errors_close: of those that are wrong with it, the share that do; NaN
            where none is wrong.
        low, high: limits of Wilson's 95 % interval of `close`.
    """

    n: int
    without: float
    with_close: float
    close: float
    errors_close: float
    low: float
    high: float


@dataclass(frozen=True)
class NearMissStressTest:
    """Does a model tell a right description from one that differs in a detail, or only from quite other ones?

    Paper: Evaluating CLIP: Towards Characterization of Broader Capabilities and Downstream Implications (arXiv
    2108.02818).
    """

    def measure(self, right: Any, others: Any, close: Any) -> NearMissResult:
        """Compare the scores of the options of each picture; an equal score is not the choice of the right one.

        Args:
            right: (N,) scores of the right option.
            others: (N, K) of wrong ones that have nothing to do with the picture.
            close: (N,) of the close one.

        Raises:
            UsageError: shapes that do not go together, no picture, or NaN.
        """
        truth, wrong, near = (np.asarray(values, dtype=float) for values in (right, others, close))
        if truth.ndim != 1 or wrong.ndim != 2 or not len(truth) == len(wrong) == len(near) or near.ndim != 1:
            raise UsageError(f"shapes must be (N,), (N, K) and (N,); got {truth.shape}, {wrong.shape} and {near.shape}")
        if not len(truth) or any(np.isnan(values).any() for values in (truth, wrong, near)):
            raise UsageError("there is no picture, or a score is NaN")
        best = wrong.max(axis=1, initial=-np.inf)
        won = truth > np.maximum(best, near)
        fooled = (near >= truth) & (near > best)
        low, high = wilson(float(fooled.sum()), len(truth))
        errors = float(fooled.sum() / (~won).sum()) if (~won).any() else math.nan
        return NearMissResult(len(truth), float((truth > best).mean()), float(won.mean()), float(fooled.mean()), errors,
                              float(low), float(high))  # fmt: skip


@dataclass(frozen=True)
class IdentityRate:
    """Closed-set identification among `names` names: share that is right, its 95 % interval, and chance."""

    names: int
    accuracy: float
    low: float
    high: float
    chance: float


@dataclass(frozen=True, kw_only=True)
class IdentityProbe:
    """How well single identities are told apart by their names, against how many names there are.

    For each size, random subsets of the names are drawn; the pictures of those names are classified among them.

    Paper: Evaluating CLIP: Towards Characterization of Broader Capabilities and Downstream Implications (arXiv
    2108.02818).

    Args:
        sizes: numbers of names; the paper: 100 and 1,000.
        repeats: subsets of each size; one where all names are in it.
        seed: of the subsets.

    Raises:
        UsageError: a size below 2 or no repeat.
    """

    sizes: Sequence[int] = (100, 1000)
    repeats: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not len(self.sizes) or min(self.sizes) < 2 or self.repeats < 1:
            raise UsageError(f"give sizes of at least 2 and a repeat, not {list(self.sizes)} and {self.repeats}")

    def measure(self, table: PredictionTable) -> list[IdentityRate]:
        """One row a size; the interval is Wilson's, for as many pictures as a subset has on average.

        Args:
            table: its classes are the names.

        Raises:
            UsageError: fewer names than a size, or no picture of any of them.
        """
        rows = []
        for size in self.sizes:
            if size > len(table.classes):
                raise UsageError(f"there are {len(table.classes)} names, fewer than {size}")
            right, count, repeats = 0, 0, 1 if size == len(table.classes) else self.repeats
            for repeat in range(repeats):
                rng = np.random.default_rng([self.seed, size, repeat])
                drawn = np.sort(rng.choice(len(table.classes), size, replace=False))
                space = table.with_classes([table.classes[i] for i in drawn])
                right, count = right + int(space.correct.sum()), count + int(space.known.sum())
            if not count:
                raise UsageError("no picture has one of the names")
            # Subsets share pictures: all of them say no more than as many pictures as one has on average.
            low, high = wilson(right / repeats, count / repeats)
            rows.append(IdentityRate(size, right / count, float(low), float(high), 1 / size))
        return rows
