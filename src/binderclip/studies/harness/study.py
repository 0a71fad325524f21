"""What a study is: a claim, how it is measured, and a rule for the verdict that is fixed before the measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from binderclip.errors import UsageError
from binderclip.studies.harness.criteria import Check, Criterion, Precondition, Verdict
from binderclip.studies.harness.table import Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIRST_RULES = "Measured under the first rules: few seeds, or essential criteria without an interval."
"""The usual `remeasure` of a study that is older than the rules on intervals and power."""


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
        criteria: the rule for the verdict; the essential ones are what the paper claims.
        draw: fills a figure from the table.
        seeds: at least 8 where a criterion is paired over seeds.
        stand_in: what is not the real thing of the paper.
        preconditions: what must be true of the models and data for the claim to be tested at all.
        rival: the method against the strongest cheap rival; reported beside the verdict, never part of it.
        null: from a seed to the rows of a random map, score or order in the method's place; it has to fail every
            essential criterion. Where the study measures it anyway: from the method's name to the random one's, whose
            rows of other seeds then stand in its place (`null.in_place`).
        quick: a smaller `measure` of about a minute; default `measure` for one seed.
        one_thread: measure on one thread of torch and BLAS.
        registered: hash of the criteria, written before the first measurement, see `registration.criteria_hash`.
        remeasure: why nothing measured so far can hold; lifts the demands on seeds, intervals and power.

    Raises:
        UsageError: no essential criterion; too few seeds or items; an essential criterion without an interval or
            without a pilot; a design coarser than the claimed effect; a seed that the pilot has used.
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
    preconditions: tuple[Precondition, ...] = ()
    rival: Criterion | None = None
    null: Callable[[int], list[Row]] | Mapping[str, str] | None = None
    quick: Callable[[int], list[Row]] | None = None
    one_thread: bool = False
    registered: str = ""
    remeasure: str = ""

    def __post_init__(self) -> None:
        if not any(criterion.essential for criterion in self.criteria):
            raise UsageError(f"study {self.paper}: at least one criterion must be essential")
        if self.remeasure:
            return
        for criterion in self.criteria:
            criterion.require_power(self.paper, self.seeds)

    @property
    def power(self) -> list[str]:
        """What the design can detect, one sentence for each criterion with a pilot."""
        return [text for criterion in self.criteria if (text := criterion.power_text(len(self.seeds)))]


@dataclass(frozen=True)
class FirstVerdict:
    """The verdict of the first measurement, kept when a study is measured or judged again.

    Attributes:
        verdict: in its own words.
        why: the reason for measuring or judging again.
    """

    verdict: str
    why: str


@dataclass(frozen=True)
class Result:
    """What a study measured.

    Attributes:
        paper: id.
        verdict: one of five, or `failed`, or `no verdict` of a quick run.
        reason: why it failed, or what keeps the verdict from `holds`; else empty.
        checks: criteria, preconditions and the rival with what was measured.
        rows: all rows of all seeds.
        seeds: that were run.
        seconds: wall time.
        versions: of binderclip, torch and python.
        criteria: hash of the criteria that were registered before the measurement; empty: judged afterwards.
        first: the first verdict, where there was another.
        notes: what a reader of the rows has to know.
    """

    paper: str
    verdict: Verdict
    reason: str
    checks: list[Check]
    rows: list[Row]
    seeds: list[int]
    seconds: float
    versions: dict[str, str] = field(default_factory=dict)
    criteria: str = ""
    first: FirstVerdict | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def table(self) -> Table:
        """The rows with look-ups."""
        return Table(self.rows)


def superseded(result: Result, study: Study) -> bool:
    """Whether the study's criteria are registered for a measurement that is still to come."""
    return bool(study.registered) and result.criteria != study.registered


def decide(study: Study, table: Table, *, registered: bool) -> tuple[Verdict, str, list[Check]]:
    """Apply the rule to the measurements.

    - `untestable here`: a precondition fails.
    - `contradicted here`: the interval of an essential criterion excludes the claimed effect, or an exact one fails.
    - `inconclusive`: an essential criterion is open, has no interval, or was met by too few seeds or items.
    - `weak`: the essential ones are met, others are not.
    - `holds`: all are met, and the criteria were registered before the measurement.

    Args:
        study: the rule.
        table: the measurements.
        registered: whether the criteria are older than the measurement.

    Returns:
        The verdict, what keeps it from `holds` (empty where it holds), and all checks.
    """
    preconditions = [precondition.check(table) for precondition in study.preconditions]
    checks = [criterion.check(table) for criterion in study.criteria]
    listed = [*preconditions, *checks]
    if study.rival is not None:
        listed.append(study.rival.check(table, role="rival"))
    failing = [check.text for check in preconditions if check.outcome != "met"]
    if failing:
        return "untestable here", f"precondition not met: {'; '.join(failing)}", listed
    essential = [check for check in checks if check.essential]
    against = [check.text for check in essential if check.outcome == "not met" and check.counts]
    if against:
        return "contradicted here", f"the claimed effect is excluded: {'; '.join(against)}", listed
    why = list(dict.fromkeys(reason for check in essential if (reason := check.open)))
    if why:
        return "inconclusive", "; ".join(why), listed
    others = [check.text for check in checks if check.outcome != "met"]
    if others:
        return "weak", f"not met: {'; '.join(others)}", listed
    if not registered:
        return "inconclusive", "the criteria were not registered before the measurement", listed
    return "holds", "", listed


def not_finite(rows: Iterable[Row]) -> Row | None:
    """The first row that is NaN or infinite."""
    return next((row for row in rows if not math.isfinite(row.value)), None)
