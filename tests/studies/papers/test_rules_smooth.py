"""The verdict rules of the studies of SmoothGrad and Smooth Grad-CAM++: each can be met and can fail."""

from __future__ import annotations

import pytest

from binderclip.studies import Row, Table, load_study
from binderclip.studies.papers.p008_smoothgrad import GRID


def p008(**change: float) -> Table:
    rows = [Row("share inside", "plain gradient", 0.2, seed=seed) for seed in (0, 1)]
    for level, lengths in GRID.items():
        for n in lengths:
            rough = 1.5 - 0.1 * n**0.3 + (change.get("last", 0.0) if n == lengths[-1] else 0.0)
            inside = change.get("much", 0.2) if level == 0.5 else change.get("inside", 0.25)
            for seed in (0, 1):
                gain = change.get("second", 0.0) if seed else 0.0
                rows.append(Row("roughness (TV / mean)", f"noise {level:g}", rough, f"n = {n}", seed))
                rows.append(Row("share inside", f"noise {level:g}", inside + gain, f"n = {n}", seed))
    return Table(rows)


def p178(**change: float) -> Table:
    rows = []
    for setting in ("classifier", "small"):
        values = {
            "random 8 x 8 map": (change.get("random", 0.5), 0.2),
            "Grad-CAM": (0.8, 0.3),
            "Grad-CAM++": (0.9, 0.3),
            "Smooth Grad-CAM++, n = 20": (change.get("recall", 0.95), change.get("inside", 0.35)),
        }
        if setting == "small":
            values["Smooth Grad-CAM++, n = 20"] = (change.get("clip", 0.95), 0.35)
        for method, (recall, inside) in values.items():
            rows += [Row("instance recall", method, recall, setting), Row("share inside", method, inside, setting)]
    return Table(rows)


@pytest.mark.parametrize(
    ("paper", "table", "verdict"),
    [
        ("p008", p008(), "all met"),
        ("p008", p008(last=0.5), "not met"),
        ("p008", p008(inside=0.19), "not met"),
        ("p008", p008(second=-0.06), "essential met"),
        ("p008", p008(much=0.3), "essential met"),
        ("p178", p178(), "all met"),
        ("p178", p178(recall=0.85), "not met"),
        ("p178", p178(inside=0.29), "not met"),
        ("p178", p178(random=0.96), "not met"),
        ("p178", p178(clip=0.5), "essential met"),
    ],
)
def test_verdicts(decide, paper: str, table: Table, verdict: str) -> None:
    assert decide(load_study(paper).criteria, table)[0] == verdict
