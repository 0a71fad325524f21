"""The verdict rule of the study of SortedAP (p031) on made-up measurements: each criterion can be met and can fail."""

from __future__ import annotations

import pytest

from binderclip.studies import Row, Table, load_study
from binderclip.studies.papers.p031_sorted_ap import (
    AJI,
    AP,
    COSTS,
    EVEN,
    GOOD,
    JUMPS,
    KEPT,
    LADDERS,
    MEAN,
    METRICS,
    MISSED,
    PERFECT,
    POOR,
    PQ,
    RULE,
    SORTED,
    SPREAD,
    TAU,
)


def made(**change: float) -> Table:
    rows = []
    for name in METRICS:
        ours = name == SORTED
        for kind in LADDERS:
            rows.append(Row(MISSED, name, change.get("missed", 0) if ours else 30, kind))
            rows.append(Row(JUMPS, name, change.get("jump", 0.01) if ours else 0.1, kind))
            rows.append(Row(EVEN, name, change.get("even", 0) if name in (MEAN, PQ) else 8, kind))
            rows.append(Row(RULE, name, change.get("pixels", 0.9) if name in (MEAN, PQ) else 0.0, kind))
        for state in (PERFECT, GOOD, POOR):
            kept = change.get("poor", 0) if state == POOR else change.get("objects", 0)
            rows += [Row(KEPT, name, kept, f"{state}, {what}") for what in ("one lost", "one invented")]
        rows += [
            Row(COSTS, name, 2.0 if name == AJI else change.get("costs", 1.0), what)
            for what in ("lost", "a fifth missing")
        ]
        rows.append(Row(TAU, name, 0.99 if ours or name == AJI else change.get("tau", 0.9)))
        if name in (SORTED, MEAN, AP):
            rows.append(Row(SPREAD, name, change.get("spread", 0.01) if ours else 0.2))
    return Table(rows)


LITTLE = "not met"


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, "all met"),
        ({"missed": 1}, LITTLE),
        ({"even": 1}, LITTLE),
        ({"objects": 1}, LITTLE),
        ({"pixels": 0.4}, "essential met"),
        ({"jump": 0.05}, "essential met"),
        ({"poor": 1}, "essential met"),
        ({"costs": 1.2}, "essential met"),
        ({"tau": 0.995}, "essential met"),
        ({"spread": 0.1}, "essential met"),
    ],
)
def test_each_criterion_can_be_met_and_can_fail(decide, change: dict[str, float], verdict: str) -> None:
    assert decide(load_study("p031").criteria, made(**change))[0] == verdict
