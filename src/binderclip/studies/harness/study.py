"""What a study is: a claim, how it is measured, and a rule for the verdict that is fixed before the measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from binderclip.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Verdict = Literal["holds", "weak", "not shown at this scale", "failed"]


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        metric: what was measured, with its unit where it has one, such as `accuracy` or `fit time (s)`.
        method: of what.
        value: the number.
        setting: where, such as `4 shots`; empty where there is only one.
        seed: set by the runner.
    """

    metric: str
    method: str
    value: float
    setting: str = ""
    seed: int = 0


class Table:
    """The rows of all seeds, with the look-ups that criteria and figures need."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.rows = list(rows)

    def values(self, metric: str, method: str, setting: str = "") -> np.ndarray:
        """One value a seed, in the order of the seeds.

        Raises:
            UsageError: nothing was measured under these names.
        """
        found = sorted(
            (r.seed, r.value) for r in self.rows if (r.metric, r.method, r.setting) == (metric, method, setting)
        )
        if not found:
            raise UsageError(
                f"the study measured no {metric!r} of {method!r}" + (f" at {setting!r}" if setting else "")
            )
        return np.array([value for _, value in found])

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


Test: TypeAlias = "Callable[[Table], tuple[bool, str]]"


@dataclass(frozen=True)
class Criterion:
    """One condition of the verdict.

    Attributes:
        text: the condition in words.
        test: from the table to (whether it is met, what was measured in words).
        essential: without it the claim is not shown; the others only weaken it.
    """

    text: str
    test: Test
    essential: bool = False


@dataclass(frozen=True)
class Check:
    """A criterion after the measurement."""

    text: str
    essential: bool
    met: bool
    measured: str


@dataclass(frozen=True)
class Study:
    """One small experiment about the claim of a paper.

    Attributes:
        paper: its id.
        claim: what the paper says, at the scale measured here.
        protocol: data, models, steps.
        baseline: what it is compared with.
        lower_bound: random or majority performance.
        upper_bound: oracle, or an empty string where there is none.
        measure: from a seed to rows; randomness comes from the seed only.
        criteria: the verdict rule: `holds` if all are met, `weak` if the essential ones are, else `not shown`.
        draw: fills a figure from the table.
        seeds: at least three where there is randomness.
        stand_in: what is not the real thing of the paper.
    """

    paper: str
    claim: str
    protocol: str
    baseline: str
    lower_bound: str
    upper_bound: str
    measure: Callable[[int], list[Row]]
    criteria: tuple[Criterion, ...]
    draw: Callable[[Table, Figure], None]
    seeds: tuple[int, ...] = (0, 1, 2)
    stand_in: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not any(criterion.essential for criterion in self.criteria):
            raise UsageError(f"study {self.paper}: at least one criterion must be essential")


@dataclass(frozen=True)
class Result:
    """What a study measured.

    Attributes:
        paper: id.
        verdict: `holds`, `weak`, `not shown at this scale` or `failed`.
        reason: why it failed, else empty.
        checks: the criteria with what was measured.
        rows: all rows of all seeds.
        seeds: that were run.
        seconds: wall time.
        versions: of binderclip, torch and python.
    """

    paper: str
    verdict: Verdict
    reason: str
    checks: list[Check]
    rows: list[Row]
    seeds: list[int]
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def table(self) -> Table:
        """The rows with look-ups."""
        return Table(self.rows)


def decide(criteria: Iterable[Criterion], table: Table) -> tuple[Verdict, list[Check]]:
    """Apply the rule to the measurements."""
    checks = []
    for criterion in criteria:
        met, measured = criterion.test(table)
        checks.append(Check(criterion.text, criterion.essential, bool(met), measured))
    if all(check.met for check in checks):
        return "holds", checks
    if all(check.met for check in checks if check.essential):
        return "weak", checks
    return "not shown at this scale", checks


def not_finite(rows: Iterable[Row]) -> Row | None:
    """The first row that is NaN or infinite."""
    return next((row for row in rows if not math.isfinite(row.value)), None)
