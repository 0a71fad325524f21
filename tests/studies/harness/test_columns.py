"""What is said of a paper in a row: verdict, parts, effect, rival, cost and what it means, on results made by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from binderclip.papers import paper
from binderclip.studies import VERDICTS, Check, Row
from binderclip.studies.harness.columns import Columns
from binderclip.studies.harness.study import Result

SEEN = Check("a above b", True, "seen", "x", "paired t over seeds", 0.2, 0.1, 0.3, 8, shown="+0.2 (+0.1 to +0.3) IoU")
BOUND = replace(SEEN, text="a above .5", shown="0.7 (0.6 to 0.8) IoU, has to be above 0.5, n = 8 seeds")
OPEN = replace(SEEN, text="c above d", outcome="open", why="too wide", shown="+0.1 (-0.1 to +0.3) IoU")
SMALL = replace(
    SEEN, text="e above f", outcome="excluded", shown="+0 (-0.1 to +0.1) IoU", limit="effect of 0.2 or more"
)
RIVAL = replace(
    SEEN, text="a above the crop", essential=False, role="rival", outcome="opposite", shown="-1 (-2 to -0.5)"
)
EFFECT = "+0.2 (+0.1 to +0.3) IoU; asked: a above b"
LACKS = Check("it attends", True, "missing", "0.2, has to be above 0.5", role="precondition")


def columns(verdict: Any, *checks: Check, reason: str = "", **options: Any) -> Columns:
    rows = [Row("fit (s)", name, value, setting, seed) for name, value in (("a", 1.0), ("b", 4.0))
            for setting in ("x", "y") for seed in (0, 1)]  # fmt: skip
    return Columns(replace(paper("p162"), **options), Result("p162", verdict, reason, list(checks), rows, [0, 1], 60.0))


@pytest.mark.parametrize(
    ("row", "claim", "effect"),
    [
        (
            columns("reproduced", BOUND, SEEN),
            "reproduced; 2 of 2 parts seen",
            EFFECT,
        ),
        (columns("in part", SEEN, OPEN), "in part; 1 of 2 parts seen", "+0.1 (-0.1 to +0.3) IoU; asked: c above d"),
        (
            columns("in part", SEEN),
            "in part; 1 of 1 part seen, a lesser one not",
            EFFECT,
        ),
        (
            columns("no effect of X or more", SEEN, OPEN, SMALL),
            "no effect of 0.2 or more; 1 of 3 parts seen",
            "+0 (-0.1 to +0.1) IoU; asked: e above f",
        ),
        (columns("not testable here", LACKS, SEEN), "not testable here", ""),
        (
            columns("reproduced", SEEN, condition="only after it was taught"),
            "reproduced; 1 of 1 part seen",
            "only after it was taught: " + EFFECT,
        ),
    ],
)
def test_a_claim_is_told_by_its_parts_and_by_what_decides(row: Columns, claim: str, effect: str) -> None:
    assert (row.claim, row.effect) == (claim, effect)


def test_of_a_claim_that_is_not_testable_the_reason_is_told_and_nothing_else() -> None:
    row = columns("not testable here", LACKS, SEEN, RIVAL)
    assert row.why_not == "it attends: 0.2, has to be above 0.5"
    assert (row.seen, row.against, row.rival_word) == ((0, 0), "", "")
    broken = columns("undecided", OPEN, reason="an error of the study, NaN in: b (logarithm of the ratio)")
    assert broken.why_not == "an error of the study, NaN in: b"
    assert columns("undecided", OPEN, reason="open: c above d").why_not == ""


def test_the_rival_stands_beside_the_verdict() -> None:
    row = columns("reproduced", SEEN, RIVAL)
    assert row.against == "lost: -1 (-2 to -0.5); asked: a above the crop"
    assert row.means.endswith("The strongest cheap rival did better: try that first.")
    assert "rival" not in columns("reproduced", SEEN).means


def test_every_verdict_means_something() -> None:
    assert all(columns(verdict, SEEN).means for verdict in VERDICTS)
    assert Columns(paper("p006")).means == ""


def test_what_to_try_first_stands_first() -> None:
    beaten, tied = replace(RIVAL, outcome="seen"), replace(RIVAL, outcome="open")
    rows = [
        columns("reproduced", SEEN, beaten),
        columns("reproduced", SEEN),
        columns("reproduced", SEEN, tied),
        columns("reproduced", SEEN, RIVAL),
        columns("in part", SEEN, beaten),
        columns("undecided", OPEN, beaten),
        Columns(paper("p162")),
    ]
    orders = [row.order for row in rows]
    assert all(one < other for one, other in pairwise(orders))


def test_a_cost_is_a_ratio_of_means_of_the_rows_or_of_a_benchmark() -> None:
    assert columns("reproduced", SEEN, cost=("fit (s)", "a", "b")).cost == "×0.25 of b (fit)"
    measured = {"speed": {"rows": [{"name": "a, large", "ours": 3.0, "peer": 2.0, "peer_name": "plain"}]}}
    known = replace(paper("p162"), cost=("speed", "a, large"))
    assert Columns(known, None, measured).cost == "×1.5 of plain (a, large)"
    assert Columns(known, None, {}).cost == ""
    assert columns("reproduced", SEEN, cost=()).cost == ""


def test_a_method_is_called_by_its_name_in_its_own_room() -> None:
    assert Columns(paper("p061")).name == "ProGrad"  # which stands behind the optimizer's rule it is made of
    assert Columns(paper("p162")).implementation == "peer library, closed form"
