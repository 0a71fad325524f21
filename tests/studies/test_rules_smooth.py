"""The verdict rule of the study of SmoothGrad: each criterion can be met and can fail."""

from __future__ import annotations

import pytest

from binderclip.studies import Row, Table, load_study
from binderclip.studies.p008_smoothgrad import GRID
from binderclip.studies.study import decide


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


@pytest.mark.parametrize(
    ("paper", "table", "verdict"),
    [
        ("p008", p008(), "holds"),
        ("p008", p008(last=0.5), "not shown at this scale"),
        ("p008", p008(inside=0.19), "not shown at this scale"),
        ("p008", p008(second=-0.06), "weak"),
        ("p008", p008(much=0.3), "weak"),
    ],
)
def test_verdicts(paper: str, table: Table, verdict: str) -> None:
    assert decide(load_study(paper).criteria, table)[0] == verdict
