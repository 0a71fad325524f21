"""Conditions of a verdict, each judged by a 95 % interval against its margin and against no effect."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from binderclip.errors import UsageError
from binderclip.studies.harness.check import NO_INTERVAL, Check, Outcome, Role, outcome_of
from binderclip.studies.harness.power import (
    LEAST_ITEMS,
    LEAST_SEEDS,
    Estimate,
    Pilot,
    bootstrap_interval,
    smallest_detectable,
    t_interval,
)
from binderclip.studies.harness.quantities import Quantity, combined, quantity
from binderclip.studies.harness.scale import Scale, is_logarithmic, scale_of
from binderclip.studies.harness.table import Table

Over = Literal["seeds", "items"]
Test: TypeAlias = "Callable[[Table], tuple[bool, str]]"


@dataclass(frozen=True)
class Criterion:
    """One condition of the verdict. Built directly it has no interval: as an essential one it decides nothing.

    Attributes:
        text: the condition in words.
        test: from the table to (whether it is met, what was measured in words).
        essential: without it the claim is not shown. Of the others one that is excluded makes it shown in part only.
    """

    text: str
    test: Test | None = None
    essential: bool = False

    def check(self, table: Table, role: Role = "criterion") -> Check:
        """Judge the measurements."""
        assert self.test is not None
        met, measured = self.test(table)
        return Check(self.text, self.essential, "seen" if met else "open", measured, why=NO_INTERVAL, role=role)

    def require_power(self, paper: str, seeds: Sequence[int]) -> None:
        """Refuse what cannot decide.

        Raises:
            UsageError: essential and without an interval.
        """
        if self.essential:
            raise UsageError(
                f"study {paper}: {self.text!r} is essential and has no interval: Criterion.paired, at_least, below, "
                "rank or estimated, or Criterion.exact for a theorem"
            )

    def power_text(self, n_seeds: int) -> str:
        """What the design can detect in words; empty without a pilot."""
        return ""

    @staticmethod
    def paired(
        text: str,
        a: Quantity,
        b: Quantity | float,
        *,
        margin: float = 0.0,
        claimed: float | None = None,
        expected: float | None = None,
        lower: bool = False,
        over: Over = "seeds",
        items: int = 0,
        pilot: Pilot | None = None,
        essential: bool = False,
    ) -> Contrast:
        """`a` exceeds `b` by more than the margin, paired over seeds (t interval) or items (paired bootstrap).

        Seen: the interval of `a - b` lies above the margin. Opposite: it lies on the other side of no effect. Excluded:
        below the claimed effect, or with none inside below the expected one. Else open.

        Args:
            text: the condition in words.
            a, b: compared; a number is a bound.
            margin: negative for `no worse than by so much`.
            claimed: the smallest effect that would bear out the paper; default the margin.
            expected: the effect that the power is counted for; default the claimed one, or none at all where the margin
                is negative.
            lower: `a` is below `b` instead: effects count downwards.
            over: what is paired.
            items: how many there will be, for `over="items"`; at least 200.
            pilot: the spread of the difference, for the power.
            essential: whether the claim stands on it.

        Raises:
            UsageError: a claimed effect below the margin.
        """
        claim, design = _effects(text, margin, claimed, expected)
        return Contrast(
            text, None, essential, a=a, b=quantity(b), margin=margin, claimed=claim, expected=design, lower=lower,
            over=over, items=items, pilot=pilot,
        )  # fmt: skip

    @staticmethod
    def at_least(text: str, a: Quantity, bound: float, **options: object) -> Contrast:
        """`a` lies above a bound: one-sample t over seeds. Options are those of `paired`."""
        return Criterion.paired(text, a, bound, **options)  # type: ignore[arg-type]

    @staticmethod
    def below(text: str, a: Quantity, bound: float, **options: object) -> Contrast:
        """`a` lies below a bound: one-sample t over seeds. Options are those of `paired`."""
        return Criterion.paired(text, a, bound, lower=True, **options)  # type: ignore[arg-type]

    @staticmethod
    def rank(text: str, parts: Sequence[Quantity], above: float = 0.0, **options: object) -> Contrast:
        """The parts rise in this order: Spearman's correlation with it, one a seed, lies above `above`.

        Args:
            text: the condition in words.
            parts: at least three, from the one claimed lowest to the one claimed highest.
            above: 0 is what a random order gives on average.
            options: those of `paired`.

        Raises:
            UsageError: fewer than three parts.
        """
        if len(parts) < 3:
            raise UsageError(f"{text!r}: a rank needs at least three parts, got {len(parts)}; two are `paired`")
        return Criterion.paired(text, combined("rank", *parts), above, **options)  # type: ignore[arg-type]

    @staticmethod
    def estimated(
        text: str,
        estimate: Callable[[Table], Estimate],
        *,
        margin: float = 0.0,
        claimed: float | None = None,
        expected: float | None = None,
        over: Over = "items",
        items: int = 0,
        pilot: Pilot | None = None,
        essential: bool = False,
    ) -> Estimated:
        """An effect whose interval the study computes itself, such as one over scenes; as `paired` otherwise."""
        claim, design = _effects(text, margin, claimed, expected)
        return Estimated(
            text, None, essential, estimate=estimate, margin=margin, claimed=claim, expected=design, over=over,
            items=items, pilot=pilot,
        )  # fmt: skip

    @staticmethod
    def exact(text: str, test: Test, *, why: str, essential: bool = False) -> Exact:
        """A theorem, a bound or a count of violations: no seed matters, so there is no interval.

        Args:
            text: the condition in words.
            test: from the table to (whether it is met, what was measured in words).
            why: why no interval is needed, such as `a theorem`.
            essential: whether the claim stands on it.
        """
        return Exact(text, test, essential, why=why)


def _effects(text: str, margin: float, claimed: float | None, expected: float | None) -> tuple[float, float]:
    """The claimed effect and the one that the power is counted for, with their defaults."""
    claim = margin if claimed is None else claimed
    design = max(claim, 0.0 if margin < 0 else claim) if expected is None else expected
    if claim < margin or design < claim:
        raise UsageError(f"{text!r}: margin {margin:g} <= claimed {claim:g} <= expected {design:g} does not hold")
    return claim, design


@dataclass(frozen=True)
class Exact(Criterion):
    """A condition without chance; see `Criterion.exact`."""

    why: str = ""

    def check(self, table: Table, role: Role = "criterion") -> Check:
        """Judge the measurements."""
        assert self.test is not None
        met, measured = self.test(table)
        how = f"exact: {self.why}"
        return Check(self.text, self.essential, "seen" if met else "opposite", measured, how, role=role)

    def require_power(self, paper: str, seeds: Sequence[int]) -> None:
        """Nothing to refuse: no seed matters."""


@dataclass(frozen=True, kw_only=True)
class _Interval(Criterion):
    """What conditions with an interval share: the rule, and the power of the design."""

    margin: float = 0.0
    claimed: float = 0.0
    expected: float = 0.0
    over: Over = "items"
    items: int = 0
    pilot: Pilot | None = None

    def judged(self, found: Estimate, values: str, role: Role, scale: Scale) -> Check:
        """The interval against the margin, no effect, the claimed effect and the expected one."""
        outcome, why, excluded = outcome_of(found, self.margin, self.claimed, self.expected, scale.none)
        least = LEAST_SEEDS if self.over == "seeds" else LEAST_ITEMS
        if outcome == "seen" and found.n < least:
            outcome, why = "open", f"{found.n} {self.over}, at least {least} are needed"
        low, high = (bound if math.isfinite(bound) else None for bound in (found.low, found.high))
        interval = NO_INTERVAL if low is None else f"95 % interval {found.low:+.3g} to {found.high:+.3g}"
        text = f"{values}{found.effect:+.3g} ({interval}, n = {found.n}, {found.how})"
        if self.margin:
            text += f", margin {self.margin:+g}"
        if self.claimed != self.margin:
            text += f", claimed {self.claimed:+g}"
        if outcome == "error":
            return Check(self.text, self.essential, outcome, "no number", found.how, n=found.n, role=role)
        limit = "" if excluded is None else scale.limit(excluded)
        return Check(
            self.text, self.essential, outcome, text, found.how, found.effect, low, high, found.n, why, role,
            scale.said(found, self.over, self.margin), limit,
        )  # fmt: skip

    def require_power(self, paper: str, seeds: Sequence[int]) -> None:
        """Refuse a design that is too small for the claimed effect.

        Raises:
            UsageError: fewer than 8 seeds or 200 items; essential without a pilot; coarser than the claimed effect;
                a seed that the pilot has used.
        """
        n, least = (len(seeds), LEAST_SEEDS) if self.over == "seeds" else (self.items, LEAST_ITEMS)
        where = f"study {paper}: {self.text!r}"
        if n < least:
            raise UsageError(f"{where} is paired over {n} {self.over}; at least {least}")
        if not self.essential:
            return
        if self.pilot is None:
            raise UsageError(f"{where} is essential: give the spread that a pilot on other seeds has found")
        used = sorted(set(self.pilot.seeds) & set(seeds))
        if used:
            raise UsageError(f"{where}: the pilot has used seed {', '.join(map(str, used))}; measure on others")
        finest = smallest_detectable(self.pilot.spread, n)
        if finest > self.expected - self.margin:
            raise UsageError(
                f"{where}: {n} {self.over} detect {finest:.3g} beyond the margin, the effect to be found lies "
                f"{self.expected - self.margin:.3g} beyond it; take more {self.over}"
            )

    def power_text(self, n_seeds: int) -> str:
        """What the design can detect in words; empty without a pilot."""
        if self.pilot is None:
            return ""
        n = n_seeds if self.over == "seeds" else self.items
        return (
            f"{self.text}: {n} {self.over} detect {smallest_detectable(self.pilot.spread, n):.2g} beyond the margin of "
            f"{self.margin:g} with a probability of 80 % (to be found: {self.expected:.3g}; pilot spread "
            f"{self.pilot.spread:.2g}, seeds {', '.join(map(str, self.pilot.seeds))})"
        )


@dataclass(frozen=True, kw_only=True)
class Contrast(_Interval):
    """One quantity against another or a bound; see `Criterion.paired`."""

    a: Quantity
    b: Quantity
    lower: bool = False

    def check(self, table: Table, role: Role = "criterion") -> Check:
        """Judge the measurements."""
        values = (self.a.items, self.b.items) if self.over == "items" else (self.a.values, self.b.values)
        one, other = (each(table) for each in values)
        differences = other - one if self.lower else one - other
        if self.over == "items":
            found = bootstrap_interval(differences)
        else:
            bound = self.b.how == "constant"
            found = t_interval(differences, "t over seeds" if bound else "paired t over seeds")
        side = "below" if self.lower else "above"
        scale = scale_of(self.a, self.b, lower=self.lower, factor=is_logarithmic(self.text))
        return self.judged(found, f"{one.mean():.4g} against {other.mean():.4g}; {side} by ", role, scale)


@dataclass(frozen=True, kw_only=True)
class Estimated(_Interval):
    """An effect with an interval of the study's own; see `Criterion.estimated`."""

    estimate: Callable[[Table], Estimate]

    def check(self, table: Table, role: Role = "criterion") -> Check:
        """Judge the measurements."""
        # The function says no unit: a study that computes its own interval measures one thing, which stands first.
        scale = Scale(table.names("metric")[0], factor=is_logarithmic(self.text))
        return self.judged(self.estimate(table), "", role, scale)


@dataclass(frozen=True)
class Precondition:
    """What must be true of the models and data for the claim to be tested at all, measured like everything else.

    Attributes:
        text: the condition in words.
        value: its mean over seeds is held against the bound.
        bound: the least or the largest value.
        lower: whether the value has to lie below the bound instead of above.
    """

    text: str
    value: Quantity
    bound: float
    lower: bool = False

    def check(self, table: Table) -> Check:
        """Judge the measurements."""
        values = self.value.values(table)
        mean = float(values.mean())
        met = mean < self.bound if self.lower else mean > self.bound
        measured = f"{mean:.4g}, has to be {'below' if self.lower else 'above'} {self.bound:g}"
        outcome: Outcome = "error" if not math.isfinite(mean) else "seen" if met else "missing"
        effect = mean if math.isfinite(mean) else None
        return Check(
            self.text, True, outcome, measured, "mean over seeds", effect, None, None, len(values), "", "precondition"
        )
