"""One small experiment a paper: a claim, a fair baseline, and a verdict by a rule fixed beforehand."""

from __future__ import annotations

from binderclip.studies.harness.check import VERDICTS, Check
from binderclip.studies.harness.columns import Columns
from binderclip.studies.harness.criteria import Criterion, Precondition
from binderclip.studies.harness.page import checkout, columns_of, papers_page, results_in, stored_result
from binderclip.studies.harness.power import Estimate, Pilot, smallest_detectable
from binderclip.studies.harness.quantities import Quantity, combined, value_of
from binderclip.studies.harness.registration import criteria_hash
from binderclip.studies.harness.report import read, save
from binderclip.studies.harness.run import after, available, judge_again, load_study, run_study
from binderclip.studies.harness.study import FormerVerdict, Result, Study
from binderclip.studies.harness.table import Row, Table

__all__ = [
    "VERDICTS",
    "Check",
    "Columns",
    "Criterion",
    "Estimate",
    "FormerVerdict",
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
    "columns_of",
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
