"""The verdict rules of the studies of visual prompts on made-up measurements: each can be met and can fail."""

from __future__ import annotations

import pytest

from binderclip.studies import Row, Table, load_study


def p015(**change: float) -> Table:
    values = {
        "P crop": 0.6, "B1 box line": 0.2, "B4 box blur": 0.5, "C1 circle line": 0.2, "C4 circle blur": 0.5,
        "D1 mask line": 0.3, "D2 mask tint": 0.3, "D3 mask grey": 0.4, "D4 mask blur": 0.7, "D1+D3+D4": 0.8,
        "D4 with masks dilated": 0.65,
    } | {name.replace("_", " "): value for name, value in change.items() if name != "negatives"}  # fmt: skip
    shifts = {
        "plain text": 0,
        "minus the mean of all texts": change.get("negatives", 0.05),
        "the X next to the Y": -0.1,
    }
    return Table(Row("region accuracy", m, v + s, setting) for setting, s in shifts.items() for m, v in values.items())


def p033(**change: float) -> Table:
    sweep = {"0": 0.25, "0.1": 0.4, "0.2": 0.5, "0.5": 0.55, "1": 0.5, "2": 0.45, "4": change.get("last", 0.4)}
    rows = []
    for step, (strength, value) in enumerate(sweep.items()):
        setting = f"v = {strength}"
        accuracy = min(value, change.get("most", 1.0))
        rows.append(Row("region accuracy", "foveal attention", accuracy, setting))
        mass = 0.1 * step * change.get("mass", 1.0)
        rows.append(Row("attention inside the box", "foveal attention", mass, setting))
    rows.append(Row("region accuracy", "red circle", change.get("circle", 0.2)))
    recall = {"nothing": 0.5, "foveal, v = 0.2": change.get("neutral", 0.5)}
    return Table(rows + [Row("whole picture: R@5 of its caption", m, v) for m, v in recall.items()])


def p070(**change: float) -> Table:
    rows = []
    for model in ("as it is", "circle taught"):
        taught = model == "circle taught"
        values = {
            "red circle": change.get("taught", 0.6) if taught else change.get("base", 0.3),
            "green circle": change.get("green", 0.45) if taught else 0.3,
            "red box": 0.4 if taught else 0.3,
            "grey outside": 0.5, "blur outside": 0.7, "circle + grey + blur": change.get("sum", 0.8),
        }  # fmt: skip
        rows += [Row("region accuracy", m, v, model) for m, v in values.items()]
        held = change.get("held", 0.4) if taught else 0.3
        rows.append(Row("region accuracy, classes held out", "red circle", held, model))
        for how, value in (("argmax", 0.5), ("sinkhorn", change.get("plan", 0.6))):
            rows.append(Row("naming accuracy", f"red circle, {how}", value, model))
    return Table(rows)


def p163(**change: float) -> Table:
    rows = []
    for setting, gain in (("one finding", change.get("one", 0.1)), ("two findings", change.get("two", 0.1))):
        for model in ("as it is", "markers taught"):
            taught = model == "markers taught"
            values = {
                "none": 0.7, "box": 0.7, "circle": 0.7 + gain * taught, "arrow": 0.7,
                "crop": change.get("crop", 0.9), "circle, wrong place": change.get("wrong", 0.65),
                "circle, said": 0.7 + gain * taught + change.get("said", 0.0),
            }  # fmt: skip
            place = f"{setting}, {model}"
            rows += [Row("AUROC", m, v, place) for m, v in values.items()]
            for mark in ("none", "circle", "circle, wrong place"):
                mass = 0.1 + change.get("attention", 0.1) * (mark == "circle")
                rows.append(Row("attention in the square", mark, mass, place))
    return Table(rows)


MADE = {"p015": p015, "p033": p033, "p070": p070, "p163": p163}
LITTLE = "not met"


@pytest.mark.parametrize(
    ("paper", "change", "verdict"),
    [
        ("p015", {}, "all met"),
        ("p015", {"B4_box_blur": 0.75}, LITTLE),
        ("p015", {"D2_mask_tint": 0.75}, LITTLE),
        ("p015", {"D1+D3+D4": 0.6}, "essential met"),
        ("p015", {"negatives": -0.01}, "essential met"),
        ("p015", {"D4_with_masks_dilated": 0.75}, "essential met"),
        ("p033", {}, "all met"),
        ("p033", {"most": 0.29}, LITTLE),
        ("p033", {"last": 0.6}, "essential met"),
        ("p033", {"mass": -1.0}, "essential met"),
        ("p033", {"neutral": 0.45}, "essential met"),
        ("p033", {"circle": 0.55}, LITTLE),
        ("p070", {}, "all met"),
        ("p070", {"taught": 0.42, "base": 0.2}, LITTLE),
        ("p070", {"taught": 0.44}, LITTLE),
        ("p070", {"base": 0.4}, "essential met"),
        ("p070", {"held": 0.3}, LITTLE),
        ("p070", {"plan": 0.4}, "essential met"),
        ("p163", {}, "all met"),
        ("p163", {"two": -0.2}, LITTLE),
        ("p163", {"attention": 0.0}, LITTLE),
        ("p163", {"one": 0.0}, "essential met"),
        ("p163", {"wrong": 0.85}, "essential met"),
        ("p163", {"said": -0.1}, "essential met"),
    ],
)
def test_each_criterion_can_be_met_and_can_fail(decide, paper: str, change: dict[str, float], verdict: str) -> None:
    assert decide(load_study(paper).criteria, MADE[paper](**change))[0] == verdict
