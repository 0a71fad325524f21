"""p079: every way that its verdict can turn, on made-up rows, and what its parts measure."""

from __future__ import annotations

import numpy as np
import torch

from binderclip.studies import Row, Table
from binderclip.studies.papers import p079_augmented_sliced as sliced


def made_sliced(ratio=1.0, flow=-3.0, moved=0.1):
    rows = [Row(sliced.RATIO, name, 0.5) for name in sliced.METHODS if name != sliced.AUGMENTED]
    rows.append(Row(sliced.RATIO, sliced.AUGMENTED, ratio))
    for target in sliced.TARGETS:
        rows += [Row(sliced.FLOW, name, -2.5, target) for name in sliced.FLOWING if name != sliced.AUGMENTED]
        rows.append(Row(sliced.FLOW, sliced.AUGMENTED, flow, target))
    rows += [
        Row(sliced.GAP, sliced.AUGMENTED, value, name) for name, value in ((sliced.RAW, 0.3), (sliced.MOVED, moved))
    ]
    return Table(rows)


def test_p079_stands_on_the_ratio_and_on_the_flow(fails):
    fails("p079", made_sliced(), "all met", [])
    fails("p079", made_sliced(ratio=0.65), "not met", ["the ratio"])
    fails("p079", made_sliced(flow=-2.4), "not met", ["samples that descend"])
    fails("p079", made_sliced(moved=0.4), "essential met", ["taking the means"])


def test_p079_flows_arrive_and_exact_distances_are_exact():
    rng = np.random.default_rng(0)
    target = sliced.target_points("circle", rng)
    assert target.norm(dim=1).sub(1).abs().max() < 0.1
    start = torch.as_tensor(rng.standard_normal((sliced.POINTS, 2)), dtype=torch.float32)
    way = sliced.flow(sliced.distances(2, 0, cold=False)[sliced.SLICED], start, target)
    assert len(way) == sliced.LOOKS
    assert way[-1] < 0.3 * sliced.exact_w2(start, target)
    shifted = sliced.exact_w2(target, target.flip(0) + torch.tensor([3.0, 4.0]))
    assert abs(shifted - 5) < 1e-5
