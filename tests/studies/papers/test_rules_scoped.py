"""The verdict rules of the studies of CLIPer (p132) and CorrCLIP (p164): each can be met and can fail."""

from __future__ import annotations

import pytest
import torch

from binderclip.studies import Row, Table, load_study
from binderclip.studies.papers import p132_cliper as cliper
from binderclip.studies.papers import p164_corrclip as corrclip
from binderclip.studies.protocols.tables.scene_attention import EVEN, MASS, own_share
from binderclip.studies.protocols.tables.segment_table import SETS


def table(pairs, mass: dict[str, float], levels: dict[str, float], gains: dict[tuple[str, str], float]) -> Table:
    """Every gain is 0.05 with an interval of half 0.02, except for those that are given."""
    rows = []
    for seed in (0, 1, 2):
        for name in SETS:
            for one, other in pairs:
                pair = f"{one} - {other}"
                rows.append(Row("gain", pair, gains.get((one, other), 0.05), name, seed))
                rows.append(Row("gain, half its interval", pair, 0.02, name, seed))
            rows += [Row(MASS, method, value, name, seed) for method, value in mass.items()]
            rows += [Row("mIoU", method, value, name, seed) for method, value in levels.items()]
    return Table(rows)


def p132(gains: dict[tuple[str, str], float] | None = None) -> Table:
    mass = {cliper.FUSED: 0.6, cliper.OWN: 0.2, EVEN: 0.1}
    levels = dict.fromkeys(cliper.asked(), 0.3) | {"sclip": 0.35}
    return table(cliper.PAIRS, mass, levels, gains or {})


def p164(gains: dict[tuple[str, str], float] | None = None) -> Table:
    mass = {corrclip.FREE: 0.3, corrclip.FOUND: 0.6, corrclip.TRUE: 1.0, EVEN: 0.1}
    levels = dict.fromkeys(corrclip.asked(), 0.3) | {"sclip": 0.35}
    return table(corrclip.PAIRS, mass, levels, gains or {})


HOLDS, WEAK, NOT = "all met", "essential met", "not met"


@pytest.mark.parametrize(
    ("paper", "found", "verdict"),
    [
        ("p132", p132(), HOLDS),
        ("p132", p132({(cliper.FUSED, cliper.OWN): 0.0}), NOT),
        ("p132", p132({(cliper.LAYERS, cliper.FUSED): -0.1}), NOT),
        ("p132", p132({(cliper.SHARP, cliper.LAYERS): 0.001}), NOT),
        ("p132", p132({(cliper.SHARP, "sclip"): -0.1}), WEAK),
        ("p164", p164(), HOLDS),
        ("p164", p164({(corrclip.TRUE, corrclip.FOUND): -0.1}), NOT),
        ("p164", p164({(corrclip.FOUND, corrclip.FREE): 0.0}), NOT),
        ("p164", p164({(corrclip.SPATIAL, corrclip.FOUND): -0.1}), WEAK),
        ("p164", p164({(corrclip.CORRCLIP, "value"): 0.0}), WEAK),
    ],
)
def test_verdicts(decide, paper: str, found: Table, verdict: str) -> None:
    assert decide(load_study(paper).criteria, found)[0] == verdict


def test_the_own_share_is_of_object_patches_alone() -> None:
    weights = torch.tensor([[9.0, 1, 0], [1, 2, 1], [3, 0, 3]])
    # Patch 0 is ground; 1 and 2 are of one class, then of two.
    assert own_share(weights, torch.tensor([0, 4, 4])) == pytest.approx((3 / 4 + 3 / 6) / 2)
    assert own_share(weights, torch.tensor([0, 4, 5])) == pytest.approx((2 / 4 + 3 / 6) / 2)
