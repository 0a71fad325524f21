"""What a study is: a claim, how it is measured, and a rule for the verdict that is fixed before the measurement."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from binderclip.errors import UsageError
from binderclip.studies.harness.check import Check, Outcome, Verdict
from binderclip.studies.harness.criteria import Criterion, Precondition
from binderclip.studies.harness.table import Row, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Measure: TypeAlias = Callable[[int], list[Row]]
"""From a seed to the rows of one measurement."""
Draw: TypeAlias = "Callable[[Table, Figure], None]"
"""Fills a figure from the table."""
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
        draw: fills a figure from the table; default the effects of the criteria with their intervals.
        seeds: at least 8 where a criterion is paired over seeds.
        stand_in: what is not the real thing of the paper.
        preconditions: what must be true of the models and data for the claim to be tested at all.
        first: from a seed to the rows that the preconditions read, measured for all seeds before anything else: where
            one is missing the study stops there, and costs no more time.
        rival: the method against the strongest cheap rival; reported beside the verdict, never part of it.
        null: from a seed to the rows of a random map, score or order in the method's place; it has to fail every
            essential criterion. Where the study measures it anyway: from the method's name to the random one's, whose
            rows of other seeds then stand in its place (`null.in_place`). Default numbers between 0 and 1 for all that
            the criteria read (`null.random_rows`); None where numbers so small mean something, such as a few spikes.
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
    measure: Measure
    criteria: tuple[Criterion, ...]
    draw: Draw | None = None
    seeds: tuple[int, ...] = (0, 1, 2)
    stand_in: tuple[str, ...] = ()
    preconditions: tuple[Precondition, ...] = ()
    first: Measure | None = None
    rival: Criterion | None = None
    null: Measure | Mapping[str, str] | Literal["random"] | None = "random"
    quick: Measure | None = None
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
class FormerVerdict:
    """A verdict that another one has replaced, kept on the study's page.

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
        verdict: one of `VERDICTS`, or `failed`, or `no verdict` of a quick run.
        reason: why it failed, or what keeps the verdict from `reproduced`; else empty.
        checks: criteria, preconditions and the rival with what was measured.
        rows: all rows of all seeds.
        seeds: that were run.
        seconds: wall time.
        versions: of binderclip, torch and python.
        criteria: hash of the criteria that were registered before the measurement; empty: judged afterwards.
        history: verdicts that were replaced, the oldest first.
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
    history: list[FormerVerdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def table(self) -> Table:
        """The rows with look-ups."""
        return Table(self.rows)

    @property
    def stopped(self) -> bool:
        """Whether a precondition was missing and nothing else was measured."""
        return bool(self.checks) and all(check.role == "precondition" for check in self.checks)

    @property
    def parts(self) -> list[Check]:
        """The essential parts of the claim."""
        return [check for check in self.checks if check.essential and check.role == "criterion"]

    @property
    def rival(self) -> Check | None:
        """The method against the strongest cheap rival, where one was measured."""
        return next((check for check in self.checks if check.role == "rival"), None)

    @property
    def headline(self) -> Check | None:
        """The essential part that stands for the verdict: the first that speaks against it, is open, is seen.

        Among those a comparison goes before a value that is held against a bound.
        """
        order = ("error", "opposite", "excluded", "open", "seen")
        shown = [check for check in self.parts if check.shown] or self.parts
        return min(shown, key=lambda check: (order.index(check.outcome), "has to be" in check.shown), default=None)

    @property
    def said(self) -> str:
        """The verdict in words, with the effect that is excluded."""
        limit = next((check.limit for check in self.parts if check.outcome == "excluded"), "")
        return f"no {limit}" if self.verdict == "no effect of X or more" and limit else self.verdict


def superseded(result: Result, study: Study) -> bool:
    """Whether the study's criteria are registered for a measurement that is still to come."""
    return bool(study.registered) and result.criteria != study.registered


def decide(study: Study, table: Table, *, registered: bool) -> tuple[Verdict, str, list[Check]]:
    """Apply the rule to the measurements; the first of these that is true.

    - `failed`: a condition gives NaN, which is an error of the study.
    - `not testable here`: a precondition is missing.
    - `opposite here`: the interval of an essential part lies on the other side, or an exact one fails.
    - `no effect of X or more`: the interval of an essential part excludes the effect that is claimed, or expected.
    - `undecided`: no essential part is seen, or they were seen by criteria that are younger than the measurement.
    - `in part`: some essential parts are seen; or all, and a part that is not essential is excluded.
    - `reproduced`: all essential parts are seen. Another part that is merely open lowers nothing, nor does the rival.

    Args:
        study: the rule.
        table: the measurements.
        registered: whether the criteria are older than the measurement.

    Returns:
        The verdict, what keeps it from `reproduced` (empty where nothing does), and all checks.
    """
    checks = [precondition.check(table) for precondition in study.preconditions]
    if study.first is None or all(check.outcome == "seen" for check in checks):
        checks += [criterion.check(table) for criterion in study.criteria]
        checks += [] if study.rival is None else [study.rival.check(table, role="rival")]

    def named(outcome: Outcome, among: Iterable[Check] = checks) -> str:
        return "; ".join(check.text for check in among if check.outcome == outcome)

    parts = [check for check in checks if check.essential and check.role == "criterion"]
    if texts := named("error"):
        return "failed", f"an error of the study, NaN in: {texts}", checks
    if texts := named("missing"):
        return "not testable here", f"missing: {texts}", checks
    if texts := named("opposite", parts):
        return "opposite here", f"on the other side: {texts}", checks
    if excluded := [f"{check.text}: no {check.limit}" for check in parts if check.outcome == "excluded"]:
        return "no effect of X or more", f"excluded: {'; '.join(excluded)}", checks
    still = [f"{check.text} ({check.why or check.how})" for check in parts if not check.seen]
    if len(still) == len(parts):
        return "undecided", f"open: {'; '.join(still)}", checks
    if not registered:
        return "undecided", "the criteria were not registered before the measurement", checks
    if still:
        return "in part", f"open: {'; '.join(still)}", checks
    if texts := "; ".join(check.text for check in checks if check.role == "criterion" and check.against):
        return "in part", f"all essential parts are seen; not: {texts}", checks
    return "reproduced", "", checks


def not_finite(rows: Iterable[Row]) -> Row | None:
    """The first row that is NaN or infinite."""
    return next((row for row in rows if not math.isfinite(row.value)), None)


def measured_twice(rows: Iterable[Row]) -> Row | None:
    """The first row that another of its seed has the name of: paired with others it would count twice."""
    names: set[tuple[str, str, str, int]] = set()
    for row in rows:
        name = (row.metric, row.method, row.setting, row.seed)
        if name in names:
            return row
        names.add(name)
    return None
