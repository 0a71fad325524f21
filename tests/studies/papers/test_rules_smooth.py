"""The verdict rules of the studies of SmoothGrad, NormGrad and Smooth Grad-CAM++: each can be met and can fail."""

from __future__ import annotations

import pytest
import torch

from binderclip.studies import Row, Table, load_study
from binderclip.studies.papers.p008_smoothgrad import GRID
from binderclip.studies.papers.p178_smooth_gradcam import weaker_density


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
    for method, weaker, inside in (
        ("random map", change.get("random", 0.9), 0.15),
        ("Grad-CAM", change.get("cam", 1.2), 0.3),
        ("Grad-CAM++", change.get("plus", 1.4), 0.3),
        ("Smooth Grad-CAM++, n = 20", change.get("weaker", 1.8), change.get("inside", 0.35)),
    ):
        rows.append(Row("density on the weaker instance", method, weaker))
        rows.append(Row("share inside", method, inside))
    return Table(rows)


def p066(**change: float) -> Table:
    rows = []
    for depth in ("early", "mid", "late", "combined"):
        ours = change.get(depth, 0.6)
        rows += [Row("pointing game", "NormGrad (conv1x1, norm)", ours, depth)]
        rows += [Row("pointing game", "Grad-CAM", change.get("cam", 0.3) if depth == "early" else 0.5, depth)]
    at_either = "pointing game, highest class at either object"
    for name, value in (("no step", 0.97), ("meta step 0.001", change.get("small", 0.92)),
                        ("meta step 0.01", change.get("large", 0.4))):  # fmt: skip
        rows.append(Row("class correlation", name, value, "combined"))
        after = change.get("after", 0.7) if name == "meta step 0.01" else 0.75
        rows.append(Row(at_either, name, after, "combined"))
    return Table([*rows, Row(at_either, "a random pixel", 0.2)])


def test_the_weaker_instance_counts() -> None:
    maps, masks = torch.ones(2, 4, 4), torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    masks[:, 0, :2], masks[:, 1, 3] = True, True
    maps[1, 3] = 0.5
    assert weaker_density(maps, masks).tolist() == pytest.approx([1.0, 0.5 / 0.875])


@pytest.mark.parametrize(
    ("paper", "table", "verdict"),
    [
        ("p008", p008(), "all met"),
        ("p008", p008(last=0.5), "not met"),
        ("p008", p008(inside=0.19), "not met"),
        ("p008", p008(much=0.3), "essential met"),
        ("p066", p066(), "all met"),
        ("p066", p066(cam=0.6), "not met"),
        ("p066", p066(small=0.97), "not met"),
        ("p066", p066(large=0.98), "not met"),
        ("p066", p066(after=0.2), "not met"),
        ("p066", p066(after=0.6), "essential met"),
        ("p066", p066(mid=0.4), "essential met"),
        ("p066", p066(combined=0.5), "essential met"),
        ("p178", p178(), "all met"),
        ("p178", p178(weaker=1.3), "not met"),
        ("p178", p178(inside=0.29), "not met"),
        ("p178", p178(cam=1.9, plus=1.9), "not met"),
        ("p178", p178(plus=1.1), "essential met"),
        ("p178", p178(random=1.9), "essential met"),
    ],
)
def test_verdicts(decide, paper: str, table: Table, verdict: str) -> None:
    assert decide(load_study(paper).criteria, table)[0] == verdict
