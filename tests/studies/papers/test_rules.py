"""The verdict rules of the studies on made-up measurements: each criterion can be met and can fail."""

from __future__ import annotations

import pytest

from binderclip.studies import Row, Table, load_study

SHOTS = (1, 2, 4, 8, 16)


def p162(gda: float = 0.8, tip: float = 0.7, zero: float = 0.6, time: float = 0.01, other: float = 0.5) -> Table:
    rows = []
    for seed in range(3):
        for name in ("OpenMoji", "digits"):
            for n in SHOTS:
                values = {
                    "zero-shot": zero, "linear probe": 0.7, "Tip-Adapter": tip, "GaussianHead": gda,
                    "identity precision": other, "no shrinkage": other,
                }  # fmt: skip
                rows += [Row("accuracy", m, v, f"{name}, {n} shots", seed) for m, v in values.items()]
            rows.append(Row("fit time with tuning (CPU s)", "GaussianHead", time, f"{name}, 16 shots", seed))
            for metric, method in (("no labels", "GaussianHead by EM"), ("classes without pictures", "GaussianHead")):
                rows += [Row(f"accuracy, {metric}", m, v, name, seed) for m, v in ((method, gda), ("zero-shot", zero))]
    return Table(rows)


def p092(swap: int = 0, fid_50: float = 3.0, cmmd_50: float = 0.8, p: float = 0.005) -> Table:
    """Distances that rise with the level, the first `swap` levels in the opposite order."""
    rows = []
    for seed in range(3):
        order = [*reversed(range(swap)), *range(swap, 6)]
        rows += [Row("distance", "CMMD", 1.0 + place, f"level {k}", seed) for k, place in enumerate(order)]
        rows += [
            Row("distance, fixed shift", "CMMD, unbiased", cmmd_50, "n = 50", seed),
            Row("distance, fixed shift", "CMMD, unbiased", 0.8, "n = 400", seed),
            Row("distance, fixed shift", "FID", fid_50, "n = 50", seed),
            Row("distance, fixed shift", "FID", 1.0, "n = 400", seed),
            Row("p-value, equal moments", "MMD", p, seed=seed),
            Row("p-value, equal moments", "FID", 0.4, seed=seed),
        ]
    return Table(rows)


def p147(
    point: float = 0.6, cut: float = 0.5, blind: float = 0.3, middle: float = 0.4, rise: float = 1.0, judge: float = 0.5
) -> Table:
    return Table(
        [
            Row("pointing game", "a random pixel", 0.15),
            Row("pointing game", "the centre", 0.5),
            Row("pointing game", "saliency", point),
            Row("mask IoU", "graph cut", cut),
            Row("mask IoU", "threshold", 0.35),
            Row("mask IoU", "graph cut, random map", blind),
            Row("mask IoU", "graph cut, map of the centre", middle),
            Row("class image", "score rises in every quarter", rise),
            Row("class image", "class seen by another model", judge),
        ]
    )


MADE = {"p092": p092, "p147": p147, "p162": p162}


@pytest.mark.parametrize(
    ("paper", "change", "verdict"),
    [
        ("p092", {}, "all met"),
        ("p092", {"swap": 3}, "not met"),
        ("p092", {"fid_50": 1.9}, "not met"),
        ("p092", {"cmmd_50": 1.1, "fid_50": 9.0}, "not met"),
        ("p092", {"cmmd_50": 0.6, "fid_50": 9.0}, "not met"),
        ("p092", {"p": 0.05}, "not met"),
        ("p092", {"p": 0.39}, "not met"),
        ("p147", {}, "all met"),
        ("p147", {"point": 0.29}, "not met"),
        ("p147", {"point": 0.49}, "not met"),
        ("p147", {"cut": 0.34}, "not met"),
        ("p147", {"blind": 0.6}, "not met"),
        ("p147", {"middle": 0.6}, "essential met"),
        ("p147", {"rise": 0.4}, "essential met"),
        ("p147", {"judge": 0.1}, "essential met"),
        ("p162", {}, "all met"),
        ("p162", {"gda": 0.59, "tip": 0.5}, "not met"),
        ("p162", {"tip": 0.85}, "not met"),
        ("p162", {"time": 0.2}, "essential met"),
        ("p162", {"other": 0.85}, "essential met"),
    ],
)
def test_each_criterion_can_be_met_and_can_fail(decide, paper: str, change: dict[str, float], verdict: str) -> None:
    assert decide(load_study(paper).criteria, MADE[paper](**change))[0] == verdict
