"""Finding and running studies; one that fails says why and the others go on."""

from __future__ import annotations

import importlib
import pkgutil
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from binderclip.errors import UsageError
from binderclip.studies.harness.study import Result, Row, Study, decide, not_finite

PAPERS = Path(__file__).resolve().parents[1] / "papers"


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
        raise UsageError(f"there is no study of {paper} yet; there are {', '.join(modules)}")
    return importlib.import_module(modules[paper]).STUDY


def run_study(
    paper: str, seeds: Sequence[int] | None = None, progress: Callable[[str], object] | None = None
) -> Result:
    """Run one study over its seeds and judge it.

    Whatever goes wrong inside (a failed import, a missing data set, a NaN) makes the verdict `failed`, with the reason.

    Args:
        paper: id.
        seeds: default the study's own.
        progress: called with a line before each seed.

    Raises:
        UsageError: there is no such study, or no seed.
    """
    if paper not in available():
        load_study(paper)
    if seeds is not None and not len(seeds):
        raise UsageError("give at least one seed")
    start = time.perf_counter()
    rows: list[Row] = []
    used: list[int] = []
    try:
        study = load_study(paper)
        for seed in study.seeds if seeds is None else seeds:
            if progress is not None:
                progress(f"{paper}, seed {seed}")
            measured = [replace(row, seed=seed) for row in study.measure(seed)]
            bad = not_finite(measured)
            if bad is not None:
                raise ArithmeticError(f"{bad.metric} of {bad.method} {bad.setting} is {bad.value} (seed {seed})")
            rows += measured
            used.append(seed)
        verdict, checks = decide(study.criteria, Result(paper, "failed", "", [], rows, used, 0.0).table)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".strip()
        return Result(paper, "failed", reason, [], rows, used, time.perf_counter() - start, _versions())
    return Result(paper, verdict, "", checks, rows, used, time.perf_counter() - start, _versions())


def _versions() -> dict[str, str]:
    import torch

    from binderclip import __version__

    return {"binderclip": __version__, "torch": torch.__version__, "python": platform.python_version()}
