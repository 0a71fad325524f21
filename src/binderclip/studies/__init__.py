"""One small experiment a paper: a claim, a fair baseline, and a verdict by a rule fixed beforehand."""

from __future__ import annotations

from binderclip.studies.harness.page import checkout, papers_page, results_in, stored_result
from binderclip.studies.harness.report import read, save
from binderclip.studies.harness.run import available, load_study, run_study
from binderclip.studies.harness.study import Check, Criterion, Result, Row, Study, Table

__all__ = [
    "Check",
    "Criterion",
    "Result",
    "Row",
    "Study",
    "Table",
    "available",
    "checkout",
    "load_study",
    "papers_page",
    "read",
    "results_in",
    "run_study",
    "save",
    "stored_result",
]
