"""The verdict rules of the studies of label maps on made-up measurements: each can be met and can fail."""

from __future__ import annotations

import pytest

from binderclip.studies import Row, Table, load_study


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


def p172(**change: float) -> Table:
    rows = []
    for backbone, ours in (("U-Net", ("mean, l1", "mean, l2", "gaussian, l1", "image, l1")),
                           ("Attention U-Net", ("mean, l1", "gaussian, l1"))):  # fmt: skip
        for method in ("CE", "focal", *ours):
            best = method == "gaussian, l1"
            values = {
                "Dice": change.get("dice", 0.8) if method == "mean, l1" else 0.8,
                "ECE, foreground": {"CE": 0.05, "focal": 0.1, "mean, l1": change.get("default", 0.04)}.get(
                    method, 0.045
                ),
                "class-wise ECE, foreground": change.get("classwise", 0.09) if best else 0.1,
                "ECE, boundary band": change.get("band", 0.04) if best else 0.05,
            }
            if best:
                values["ECE, foreground"] = change.get("best", 0.03)
            if backbone == "Attention U-Net" and method == "focal":
                values["ECE, foreground"] = change.get("focal", 0.1)
            rows += [Row(metric, method, value, backbone) for metric, value in values.items()]
    return Table(rows)


def p060(**change: float) -> Table:
    rows = []
    for seed in range(3):
        for place, slope in (("all pixels", change.get("rank", 0.9)), ("boundary band", change.get("near", 0.9))):
            rows.append(Row("rank correlation over ten bins", place, slope, seed=seed))
            rows += [Row("error rate", place, 0.1 + 0.01 * k * slope, f"bin {k}", seed) for k in range(10)]
        errors = {
            "baseline": (0.3, 0.3, change.get("base", 0.3)),
            "filter + mixing": (0.2, 0.28, change.get("displaced", 0.28)),
        }
        for method, found in errors.items():
            rows += [Row(k, method, v, seed=seed) for k, v in zip(("FErr", "MErr", "DErr"), found, strict=True)]
            rows.append(Row("FErr + MErr + DErr", method, sum(found), seed=seed))
            near = change.get("biou", 0.65) if method == "filter + mixing" else 0.6
            rows.append(Row("BIoU", method, near, seed=seed))
    return Table(rows)


MADE = {"p060": p060, "p112": p112, "p172": p172}
LITTLE = "not met"


@pytest.mark.parametrize(
    ("paper", "change", "verdict"),
    [
        ("p060", {}, "all met"),
        ("p060", {"rank": -0.1}, LITTLE),
        ("p060", {"base": 0.1}, LITTLE),
        ("p060", {"biou": 0.59}, LITTLE),
        ("p060", {"displaced": 0.31}, "essential met"),
        ("p060", {"near": -0.5}, "essential met"),
        ("p112", {}, "all met"),
        ("p112", {"ece": 0.06}, LITTLE),
        ("p112", {"dice": 0.78}, LITTLE),
        ("p112", {"classwise": 0.11}, "essential met"),
        ("p112", {"band": 0.06}, "essential met"),
        ("p112", {"ece": 0.047}, LITTLE),
        ("p172", {}, "all met"),
        ("p172", {"focal": 0.02}, LITTLE),
        ("p172", {"best": 0.06}, "essential met"),
        ("p172", {"dice": 0.78}, LITTLE),
        ("p172", {"default": 0.06}, LITTLE),
        ("p172", {"classwise": 0.11}, "essential met"),
        ("p172", {"band": 0.06}, "essential met"),
    ],
)
def test_each_criterion_can_be_met_and_can_fail(decide, paper: str, change: dict[str, float], verdict: str) -> None:
    assert decide(load_study(paper).criteria, MADE[paper](**change))[0] == verdict
