"""p010: every way that the verdict can turn, on made-up rows."""

from __future__ import annotations

from binderclip.studies import Row, Table
from binderclip.studies.papers import p010_class_design as design


def made_design(young=0.3, adult=0.02, close=0.4, left=0.1, errors=0.6, across=0.3, found=0.4):
    rows = [
        Row(design.FALL, design.CHILD, young, "young"),
        Row(design.FALL, design.CHILD, adult, "adult"),
        Row(design.RATE, design.CHILD, left, "young"),
        Row(design.RIGHT, design.FAR, 0.6),
        Row(design.RIGHT, design.CLOSE, close),
        Row(design.ERRORS, design.CLOSE, errors),
        Row(design.OVERLAP, design.WITHIN, 0.5),
        Row(design.OVERLAP, design.ACROSS, across),
        Row(design.IDENTITY, "300 names", found),
    ]
    return Table(rows)


def test_p010_stands_on_whom_the_class_takes_out_and_on_the_close_option(fails):
    fails("p010", made_design(), "all met", [])
    fails("p010", made_design(adult=0.25), "not met", ["adding 'child' lowers"])
    fails("p010", made_design(close=0.55), "not met", ["a close wrong option"])
    others = ["with 'child' more", "most errors", "the labels that differ", "among 300 names"]
    fails("p010", made_design(left=0.35, errors=0.4, across=0.6, found=0.02), "essential met", others)


def test_p010_rates_fall_for_an_added_class_and_agree_with_each_other():
    rows = design.class_design(0)
    rate = {(row.metric, row.method, row.setting): row.value for row in rows}
    for age in ("young", "adult"):
        for added in (design.CHILD, design.WORD):
            fall = rate[design.FALL, added, age]
            assert fall >= 0
            assert abs(rate[design.RATE, "neither", age] - rate[design.RATE, added, age] - fall) < 1e-12
    assert rows == design.class_design(0)
