"""Finding, running and judging studies; one that fails says why and the others go on."""

from __future__ import annotations

import importlib
import pkgutil
import platform
import re
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from binderclip.errors import UsageError
from binderclip.studies.harness.null import in_place, random_rows
from binderclip.studies.harness.registration import criteria_hash
from binderclip.studies.harness.study import (
    FormerVerdict,
    Result,
    Study,
    decide,
    measured_twice,
    not_finite,
    superseded,
)
from binderclip.studies.harness.table import Row, Table
from binderclip.studies.harness.threads import one_thread

PAPERS = Path(__file__).resolve().parents[1] / "papers"
JUDGED_AGAIN = (
    "judged again, from the same rows, by the rules that tell an effect that is excluded from one that is open"
)


def available() -> dict[str, str]:
    """Paper id -> module of its study, in the order of the ids; nothing is imported."""
    names = sorted(module.name for module in pkgutil.iter_modules([str(PAPERS)]))
    return {name[:4]: f"binderclip.studies.papers.{name}" for name in names if re.fullmatch(r"p\d{3}_\w+", name)}


def load_study(paper: str) -> Study:
    """The study of a paper.

    Raises:
        UsageError: there is none.
    """
    modules = available()
    if paper not in modules:
        raise UsageError(
            f"there is no study of {paper} yet; there are {len(modules)} from {min(modules)} to {max(modules)}, which "
            "`binderclip papers --status done` lists"
        )
    return importlib.import_module(modules[paper]).STUDY


def run_study(
    paper: str,
    seeds: Sequence[int] | None = None,
    progress: Callable[[str], object] | None = None,
    *,
    quick: bool = False,
) -> Result:
    """Run one study over its seeds and judge it.

    Whatever goes wrong inside (a failed import, a missing data set, a NaN) makes the verdict `failed`, with the reason.

    Args:
        paper: id.
        seeds: default the study's own.
        progress: called with a line before each seed.
        quick: the small measurement of about a minute, one seed, without a verdict.

    Raises:
        UsageError: there is no such study, no seed, or criteria that differ from the registered ones.
    """
    if paper not in available():
        load_study(paper)
    if seeds is not None and not len(seeds):
        raise UsageError("give at least one seed")
    note = progress or (lambda line: None)
    start = time.perf_counter()
    rows: list[Row] = []
    used: list[int] = []
    reason = ""
    try:
        study = load_study(paper)
        measure = (study.quick or study.measure) if quick else study.measure
        wanted = tuple(study.seeds if seeds is None else seeds)
        found = criteria_hash(study)
        changed = bool(study.registered) and study.registered != found
        needs = []
        if study.first is not None and not quick and not changed:
            for seed in wanted:
                note(f"{paper}, seed {seed}, what it needs")
                needs += _measured(study, study.first, seed)
            used = list(wanted)
        if all(condition.check(Table(needs)).outcome == "seen" for condition in study.preconditions if needs):
            for seed in () if changed else wanted[: 1 if quick else None]:
                note(f"{paper}, seed {seed}")
                rows += _measured(study, measure, seed)
                used += [seed] if study.first is None or quick else []
        rows += needs  # what was measured of the method stands before what it needs
        if (again := measured_twice(rows)) is not None:
            raise ValueError(f"{again.metric} of {again.method} {again.setting} is there twice (seed {again.seed})")
        fresh = bool(study.registered) and not pilot_seeds(study) & set(used)
        verdict, reason, checks = (
            ("failed", "", []) if changed or quick else decide(study, Table(rows), registered=fresh)
        )
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip()
        return Result(paper, "failed", reason, [], rows, used, time.perf_counter() - start, _versions())
    if changed:
        raise UsageError(
            f"study {paper}: the criteria differ from the registered ones: write registered={found!r} and commit it "
            "before measuring"
        )
    seconds = time.perf_counter() - start
    if quick:
        return Result(paper, "no verdict (quick run)", "", [], rows, used, seconds, _versions())
    return Result(paper, verdict, reason, checks, rows, used, seconds, _versions(), found if fresh else "")


def _measured(study: Study, measure: Callable[[int], list[Row]], seed: int) -> list[Row]:
    """The rows of one seed.

    Raises:
        ArithmeticError: one is NaN or infinite.
    """
    with one_thread() if study.one_thread else nullcontext():
        measured = [replace(row, seed=seed) for row in measure(seed)]
    bad = not_finite(measured)
    if bad is not None:
        raise ArithmeticError(f"{bad.metric} of {bad.method} {bad.setting} is {bad.value} (seed {seed})")
    return measured


def pilot_seeds(study: Study) -> set[int]:
    """Seeds that the pilots of its criteria have used."""
    pilots = [pilot for criterion in study.criteria if (pilot := getattr(criterion, "pilot", None)) is not None]
    return {seed for pilot in pilots for seed in pilot.seeds}


def judge_again(result: Result, study: Study, why: str = "") -> Result:
    """Judge stored rows by the rules of today; a verdict that changes is kept in the history.

    So is one of registered criteria that the study has changed since, whatever the new verdict: the new ones are
    younger than the rows, and can show nothing. Criteria that are registered for a measurement that is still to come
    ask for other rows: the result stays as it is.
    A criterion that gives NaN, for which a run fails, leaves stored rows undecided: the page says which one.

    Args:
        result: stored.
        study: its study.
        why: the reason, where criteria were changed; default the rules.

    Raises:
        UsageError: a criterion asks for what was not measured.
    """
    if superseded(result, study):
        return result
    registered = bool(result.criteria) and result.criteria == criteria_hash(study)
    verdict, reason, checks = decide(study, result.table, registered=registered)
    verdict = "undecided" if verdict == "failed" else verdict
    history = list(result.history)
    if result.criteria and not registered:
        history.append(FormerVerdict(result.said, f"by criteria {result.criteria}; {why or JUDGED_AGAIN}"))
    elif verdict != result.verdict:
        history.append(FormerVerdict(result.verdict, why or JUDGED_AGAIN))
    criteria = result.criteria if registered else ""
    return replace(result, verdict=verdict, reason=reason, checks=checks, criteria=criteria, history=history)


def after(result: Result, former: Result | None, why: str = "") -> Result:
    """A second measurement, on other seeds or by other criteria, keeps the verdicts before it and the reason for it.

    Args:
        result: of the new measurement.
        former: what was stored, or None.
        why: the reason; default names the seeds.
    """
    if former is None or former.verdict == "failed":
        return result
    if not why and (former.seeds, former.criteria) == (result.seeds, result.criteria):
        return replace(result, history=former.history)
    by = f"by criteria {former.criteria}; " if former.criteria else ""
    reason = by + (why or f"measured again on seeds {', '.join(map(str, result.seeds))}")
    return replace(result, history=[*former.history, FormerVerdict(former.said, reason)])


def null_table(study: Study, seeds: Sequence[int], measured: Sequence[Row] = (), *, same_seeds: bool = False) -> Table:
    """What the study's null method gives.

    Args:
        study: with a null.
        seeds: of a null that is drawn.
        measured: the study's own rows, for a null that is measured beside the method.
        same_seeds: see `null.in_place`.

    Raises:
        UsageError: the study has no null, or nothing was measured of it.
    """
    if study.null is None:
        raise UsageError(f"study {study.paper} has no null method")
    if study.null == "random":
        return Table(replace(row, seed=seed) for seed in seeds for row in random_rows(study.criteria, seed))
    if callable(study.null):
        return Table(replace(row, seed=seed) for seed in seeds for row in study.null(seed))
    return Table(in_place(measured, study.null, same_seeds=same_seeds))


def null_passes(study: Study, table: Table) -> list[str]:
    """The essential criteria that a null method's table shows; a sound study gives an empty list."""
    return [c.text for c in study.criteria if c.essential and c.check(table).outcome == "seen"]


def _versions() -> dict[str, str]:
    import torch

    from binderclip import __version__

    return {"binderclip": __version__, "torch": torch.__version__, "python": platform.python_version()}
