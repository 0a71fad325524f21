"""One small experiment a paper: a claim, a fair baseline, and a verdict by a rule fixed beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.studies.harness.criteria import Check, Criterion, Precondition
    from binderclip.studies.harness.page import checkout, papers_page, results_in, stored_result
    from binderclip.studies.harness.power import Estimate, Pilot, smallest_detectable
    from binderclip.studies.harness.quantities import Quantity, combined, value_of
    from binderclip.studies.harness.registration import criteria_hash
    from binderclip.studies.harness.report import read, save
    from binderclip.studies.harness.run import after, available, judge_again, load_study, run_study
    from binderclip.studies.harness.study import FirstVerdict, Result, Study
    from binderclip.studies.harness.table import Row, Table

__all__ = [
    "Check",
    "Criterion",
    "Estimate",
    "FirstVerdict",
    "Pilot",
    "Precondition",
    "Quantity",
    "Result",
    "Row",
    "Study",
    "Table",
    "after",
    "available",
    "checkout",
    "combined",
    "criteria_hash",
    "judge_again",
    "load_study",
    "papers_page",
    "read",
    "results_in",
    "run_study",
    "save",
    "smallest_detectable",
    "stored_result",
    "value_of",
]

lazy_exports(__name__)
