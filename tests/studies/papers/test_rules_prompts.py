"""The verdict rules of the studies of prompts and adapters: each criterion can be met and can fail."""

from __future__ import annotations

from typing import Any

import pytest

from binderclip.studies import Row, Table, load_study


def p061(new: float = 0.55, harmonic: float = 0.60, base: float = 0.70) -> Table:
    rows = []
    for seed in range(3):
        for setting, value in (("4 shots", new),):
            scores = {
                "zero-shot": (0.5, 0.52, 0.51), "CoOp": (0.71, 0.45, 0.55), "CoOp + KL": (0.7, 0.5, 0.58),
                "ProGrad": (base, value, harmonic),
            }  # fmt: skip
            for method, numbers in scores.items():
                names = ("base accuracy", "new accuracy", "harmonic mean")
                rows += [Row(name, method, x, setting, seed) for name, x in zip(names, numbers, strict=True)]
    return Table(rows)


def p129(
    short: float = 0.7,
    two: float = 0.66,
    apart: float = 0.6,
    parts: float = 0.6,
    hand: float = 0.5,
    new: float = 0.8,
) -> Table:
    rows = []
    for seed in range(3):
        unseen = {"hand template": 0.8, "1 x 8 (CoOp)": 0.8, "2 x 4": new, "4 x 2": new}
        rows += [Row("accuracy, classes without pictures", m, v, seed=seed) for m, v in unseen.items()]
        for name in ("OpenMoji subgroups", "Fashion-MNIST"):
            for setting in (f"{name}, 1 shot", f"{name}, 4 shots", f"{name}, 16 shots"):
                values = {"hand template": hand, "1 x 8 (CoOp)": 0.65, "2 x 4": two, "4 x 2": short}
                rows += [Row("accuracy", m, v, setting, seed) for m, v in values.items()]
                rows.append(Row("mean accuracy of its single contexts", "4 x 2", parts, setting, seed))
            rows.append(Row("accuracy", "4 x 2, trained apart", apart, f"{name}, 4 shots", seed))
    return Table(rows)


def p142(harmonic: float = 0.61, flat: float = 0.01, base: float = 0.7, shift: float = 0.52) -> Table:
    rows = []
    for seed in range(3):
        for method in ("zero-shot", "LoRA", "LoRA + SAM", "LoRA + blend", "GLAD"):
            ours = method == "GLAD"
            numbers = {
                "harmonic mean": harmonic if ours else 0.6, "base accuracy": base if ours else 0.7,
                "shifted base accuracy": shift if ours else 0.5, "sharpness at 0.05": flat if ours else 0.02,
            }  # fmt: skip
            rows += [Row(name, method, value, seed=seed) for name, value in numbers.items()]
    return Table(rows)


TABLES = {"p061": p061, "p129": p129, "p142": p142}


@pytest.mark.parametrize("paper", TABLES)
def test_good_measurements_hold(decide, paper: str) -> None:
    verdict, checks = decide(load_study(paper).criteria, TABLES[paper]())
    assert verdict == "all met", checks


@pytest.mark.parametrize(
    ("paper", "change", "verdict", "failing"),
    [
        (
            "p061",
            {"new": 0.44},
            "not met",
            ["at 4 shots ProGrad is better", "at 4 shots it is better"],
        ),
        ("p061", {"new": 0.51}, "essential met", ["at 4 shots it is better"]),
        ("p061", {"harmonic": 0.54}, "not met", ["at 4 shots its harmonic mean"]),
        ("p061", {"base": 0.68}, "essential met", ["at 4 shots its base accuracy"]),
        ("p129", {"short": 0.64, "two": 0.6}, "not met", ["2 x 4 and 4 x 2, on average", "the same"]),
        ("p129", {"apart": 0.71}, "essential met", ["at 4 shots four contexts"]),
        ("p129", {"parts": 0.71}, "essential met", ["the ensemble is better"]),
        ("p129", {"new": 0.77}, "essential met", ["on classes without pictures"]),
        ("p142", {"harmonic": 0.59}, "not met", ["GLAD's harmonic mean"]),
        ("p142", {"flat": 0.02}, "not met", ["GLAD's solution is flatter"]),
        ("p142", {"base": 0.67}, "essential met", ["its base accuracy"]),
        ("p142", {"shift": 0.49}, "essential met", ["its accuracy on grey"]),
    ],
)
def test_each_criterion_can_fail(fails, paper: str, change: dict[str, Any], verdict: str, failing: list[str]) -> None:
    fails(paper, TABLES[paper](**change), verdict, failing)
