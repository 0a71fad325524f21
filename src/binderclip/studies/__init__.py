"""One small experiment a paper: a claim, a fair baseline, and a verdict by a rule fixed beforehand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from binderclip.lazy import lazy_exports

if TYPE_CHECKING:
    from binderclip.studies.harness.check import VERDICTS as VERDICTS
    from binderclip.studies.harness.check import Check as Check
    from binderclip.studies.harness.columns import Columns as Columns
    from binderclip.studies.harness.criteria import Criterion as Criterion
    from binderclip.studies.harness.criteria import Precondition as Precondition
    from binderclip.studies.harness.page import checkout as checkout
    from binderclip.studies.harness.page import columns_of as columns_of
    from binderclip.studies.harness.page import papers_page as papers_page
    from binderclip.studies.harness.page import results_in as results_in
    from binderclip.studies.harness.page import stored_result as stored_result
    from binderclip.studies.harness.power import Estimate as Estimate
    from binderclip.studies.harness.power import Pilot as Pilot
    from binderclip.studies.harness.power import smallest_detectable as smallest_detectable
    from binderclip.studies.harness.quantities import Quantity as Quantity
    from binderclip.studies.harness.quantities import combined as combined
    from binderclip.studies.harness.quantities import value_of as value_of
    from binderclip.studies.harness.registration import criteria_hash as criteria_hash
    from binderclip.studies.harness.report import read as read
    from binderclip.studies.harness.report import save as save
    from binderclip.studies.harness.run import after as after
    from binderclip.studies.harness.run import available as available
    from binderclip.studies.harness.run import judge_again as judge_again
    from binderclip.studies.harness.run import load_study as load_study
    from binderclip.studies.harness.run import run_study as run_study
    from binderclip.studies.harness.study import FormerVerdict as FormerVerdict
    from binderclip.studies.harness.study import Result as Result
    from binderclip.studies.harness.study import Study as Study
    from binderclip.studies.harness.table import Row as Row
    from binderclip.studies.harness.table import Table as Table

lazy_exports(__name__)
