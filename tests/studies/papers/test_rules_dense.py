"""The verdict rules of the studies of label maps on made-up measurements: each can be met and can fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.studies import Row, Table, load_study
from binderclip.studies.papers import p093_experts as experts


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


def made_experts(miou=0.42, depth=0.7, other=0.4, constant=0.8, words=0.5, learned=0.7):
    rows = []
    for name in experts.METHODS:
        mine = name == experts.EXPERTS
        rows += [
            Row(experts.MIOU, name, miou if mine else {experts.SHUFFLED: other}.get(name, 0.4)),
            Row(experts.DEPTH, name, depth if mine else {experts.CONSTANT: constant}.get(name, 0.8)),
            Row(experts.ACCURACY, name, words if mine else 0.5),
        ]
    return Table([*rows, Row(experts.LEARNED, experts.EXPERTS, learned), Row(experts.LEARNED, experts.SHUFFLED, 0.1)])


def test_p093_stands_on_captions_alone_and_its_controls_are_lesser_parts(fails):
    fails("p093", made_experts(), "all met", [])
    fails("p093", made_experts(other=0.43), "essential met", ["than with labels of other"])
    fails("p093", made_experts(constant=0.65), "essential met", ["and smaller than with one constant"])
    fails("p093", made_experts(words=0.47), "not met", ["zero-shot accuracy"])
    missed = ["a linear probe's", "than with labels of other", "and than with one constant", "patches tell more"]
    fails("p093", made_experts(miou=0.39), "not met", missed)
    assert load_study("p093").preconditions[-1].check(made_experts(learned=0.2)).outcome == "missing"


def test_p093_a_flat_map_has_error_one_and_scale_and_shift_do_not_matter():
    depth = torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert experts.unexplained(torch.ones_like(depth), depth) == pytest.approx(1)
    assert experts.unexplained(-depth, depth) == pytest.approx(1)
    assert experts.unexplained(3 * depth - 2, depth) < 1e-3
    noisy = depth + 0.3 * torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = []
    for said, true in zip(noisy.flatten(1).numpy(), depth.flatten(1).numpy(), strict=True):
        slope, offset = np.polyfit(said, true, 1)
        expected.append(np.sqrt(np.mean((slope * said + offset - true) ** 2)) / true.std())
    assert experts.unexplained(noisy, depth) == pytest.approx(np.mean(expected), rel=1e-4)
