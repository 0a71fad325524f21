"""The verdict rules of the studies of gradients and robustness on made-up tables: each can be met and can fail."""

from __future__ import annotations

import pytest

from binderclip.studies import Row, Table, load_study

LITTLE = "not met"


def p083(**change: float) -> Table:
    values = {
        ("(a) signal coordinate", "standard", "at the largest gradient"): change.get("largest", 0.0),
        ("(a) signal coordinate", "standard", "at the smallest gradient"): 0.7,
        ("(a) signal coordinate", "robust", "at the largest gradient"): change.get("mended", 0.9),
        ("(a) signal coordinate", "robust", "at the smallest gradient"): 0.0,
        ("(b) gradient in the signal block", "standard", "random place"): 0.5,
        ("(b) gradient in the signal block", "robust", "random place"): change.get("robust", 0.8),
        ("(b) gradient in the signal block", "standard", "always on top"): change.get("top", 0.9),
        ("(b) gradient in the signal block", "robust", "always on top"): 0.9,
    }
    for setting in ("10% kept", "30% kept"):
        values["(c) DiffROAR", "standard", setting] = change.get("standard", -0.01)
        values["(c) DiffROAR", "robust", setting] = change.get("roar", 0.05)
    return Table(Row(*key[:2], value, key[2], seed) for key, value in values.items() for seed in range(3))


def p044(**change: float) -> Table:
    robust = {
        "plain": 0.1, "class mean, λ = 0.5": 0.25, "class mean, λ = 1.5": change.get("mean", 0.3),
        "nearest, λ = 0.5": 0.25, "nearest, λ = 1.5": 0.3, "adversarial training": 0.5,
        "random, one a class, λ = 1.5": 0.0, "random, new each time, λ = 1.5": change.get("random", 0.1),
    }  # fmt: skip
    rows = []
    for name, value in robust.items():
        rows.append(Row("accuracy under attack", name, value, "radius 1"))
        clean = 0.8 - change.get("cost", 0.0) * name.startswith("nearest")
        rows.append(Row("accuracy", name, clean - change.get("mean_cost", 0.0) * name.startswith("class mean")))
        rows.append(Row("accuracy under attacks on the plain network", name, change.get("carried", 0.6)))
        for kind in ("class mean", "nearest"):
            rows.append(Row("alignment", name, value, kind))
        if name in ("plain", "class mean, λ = 1.5", "nearest, λ = 1.5"):
            strong = 0.1 if name == "plain" else change.get("strong", 0.28)
            rows.append(Row("accuracy under 50 steps, 5 restarts", name, strong, "margin"))
            rows.append(Row("accuracy under 50 steps, 5 restarts", name, 0.3, "cross-entropy"))
    return Table(rows)


MADE = {"p044": p044, "p083": p083}


@pytest.mark.parametrize(
    ("paper", "change", "verdict"),
    [
        ("p083", {}, "all met"),
        ("p083", {"largest": 0.8}, LITTLE),
        ("p083", {"robust": 0.65}, LITTLE),
        ("p083", {"roar": -0.02}, LITTLE),
        ("p083", {"mended": 0.5}, LITTLE),
        ("p083", {"top": 0.6}, "essential met"),
        ("p083", {"standard": 0.03}, "essential met"),
        ("p044", {}, "all met"),
        ("p044", {"mean": 0.15}, LITTLE),
        ("p044", {"random": 0.25}, LITTLE),
        ("p044", {"strong": 0.15}, LITTLE),
        ("p044", {"carried": 0.2}, "essential met"),
        ("p044", {"cost": 0.06}, "essential met"),
        ("p044", {"mean_cost": 0.06}, "essential met"),
    ],
)
def test_each_criterion_can_be_met_and_can_fail(decide, paper: str, change: dict[str, float], verdict: str) -> None:
    assert decide(load_study(paper).criteria, MADE[paper](**change))[0] == verdict
