"""The verdict rules of the studies of label maps on made-up measurements: each can be met and can fail."""

from __future__ import annotations

import pytest

from binderclip.studies import Row, Table, load_study
from binderclip.studies.study import decide


def p112(**change: float) -> Table:
    values = {
        "CE": (0.8, 0.05, 0.1, 0.05),
        "SVLS": (0.8, 0.045, 0.1, 0.05),
        "margin smoothing": (0.8, 0.045, 0.1, 0.05),
        "neighbour penalty": (
            change.get("dice", 0.795),
            change.get("ece", 0.04),
            change.get("classwise", 0.09),
            change.get("band", 0.04),
        ),
    }
    metrics = ("Dice", "ECE, foreground", "class-wise ECE, foreground", "ECE, boundary band")
    rows = [Row(k, m, v) for m, found in values.items() for k, v in zip(metrics, found, strict=True)]
    return Table([*rows, Row("Dice", "exact masks", 0.9)])


MADE = {"p112": p112}
LITTLE = "not shown at this scale"


@pytest.mark.parametrize(
    ("paper", "change", "verdict"),
    [
        ("p112", {}, "holds"),
        ("p112", {"ece": 0.06}, LITTLE),
        ("p112", {"dice": 0.78}, LITTLE),
        ("p112", {"classwise": 0.11}, "weak"),
        ("p112", {"band": 0.06}, "weak"),
        ("p112", {"ece": 0.047}, "weak"),
    ],
)
def test_each_criterion_can_be_met_and_can_fail(paper: str, change: dict[str, float], verdict: str) -> None:
    assert decide(load_study(paper).criteria, MADE[paper](**change))[0] == verdict
