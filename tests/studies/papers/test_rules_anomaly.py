"""The verdict rules of the studies of anomaly detection on made-up measurements, and the pictures they measure on."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.studies import Row, Table, load_study
from binderclip.studies.protocols.data.anomaly_sets import PLANTED, REAL, anomaly_set, drawing_set


def p094(**change: float) -> Table:
    from binderclip.studies.papers.p094_winclip import ASSOCIATION, CLIP, OBJECTS, PLUS, SINGLE, ZERO

    sets = (*REAL, *PLANTED)
    image = {
        CLIP: change.get("clip", 0.4),
        ZERO: change.get("zero", 0.6),
        PLUS[1]: change.get("one", 0.8),
        PLUS[4]: 0.9,
    }
    place = {ZERO: 0.4, PLUS[4]: change.get("plus", 0.8), ASSOCIATION: 0.75}
    place |= dict.fromkeys(SINGLE, change.get("single", 0.7))
    rows = [Row("image AUROC", m, v, s) for m, v in image.items() for s in sets]
    rows += [Row("image AUROC", m, image[m], OBJECTS) for m in (CLIP, ZERO)]
    rows += [Row("PRO", m, v, s) for m, v in place.items() for s in PLANTED]
    if "real" in change:
        rows = [r for r in rows if (r.metric, r.method, r.setting) != ("image AUROC", PLUS[4], REAL[0])]
        rows.append(Row("image AUROC", PLUS[4], change["real"], REAL[0]))
    return Table(rows)


def p028(**change: float) -> Table:
    from binderclip.studies.papers.p028_clap import CLAP, DINO, DRAWINGS, ORACLE, PLP, RANDOM

    outside = {PLP: 0.95, CLAP: change.get("outside", 0.9), DINO: 0.95, RANDOM: 0.98, ORACLE: 0.0}
    recall = {PLP: 0.5, CLAP: change.get("recall", 0.5), DINO: 0.5, RANDOM: change.get("chance", 0.2), ORACLE: 1.0}
    image = {PLP: 0.7, CLAP: change.get("clap", 0.75), DINO: change.get("dino", 0.7), RANDOM: 0.6}
    image[ORACLE] = change.get("oracle", 0.9)
    parts = {"share of the suspected outside": outside, "recall of the defect": recall, "image AUROC": image}
    return Table(Row(metric, m, v, s) for metric, found in parts.items() for m, v in found.items() for s in DRAWINGS)


@pytest.mark.parametrize(
    ("paper", "change", "verdict"),
    [
        ("p094", {}, "all met"),
        ("p094", {"one": 0.95}, "not met"),
        ("p094", {"one": 0.55}, "not met"),
        ("p094", {"plus": 0.3}, "not met"),
        ("p094", {"plus": 0.7}, "essential met"),
        ("p094", {"zero": 0.45}, "not met"),
        ("p094", {"clip": 0.59}, "not met"),
        ("p094", {"single": 0.8}, "essential met"),
        ("p094", {"real": 0.49}, "essential met"),
        ("p028", {}, "all met"),
        ("p028", {"outside": 0.95}, "not met"),
        ("p028", {"recall": 0.45}, "not met"),
        ("p028", {"clap": 0.67}, "essential met"),
        ("p028", {"chance": 0.5}, "essential met"),
        ("p028", {"oracle": 0.7}, "essential met"),
    ],
)
def test_each_criterion_can_be_met_and_can_fail(decide, paper: str, change: dict[str, float], verdict: str) -> None:
    table = {"p094": p094, "p028": p028}[paper](**change)
    assert decide(load_study(paper).criteria, table)[0] == verdict


def test_planted_sets_share_no_picture_between_their_parts() -> None:
    data = anomaly_set("brick wall, planted", 0, normal=2, test=3)
    assert data.masks is not None
    assert data.images.shape == (6, 3, 192, 192)
    assert data.labels.tolist() == [False] * 3 + [True] * 3
    assert data.truth is not None
    assert data.truth.flatten(1).any(dim=1).tolist() == data.labels.tolist()
    parts = torch.cat([data.normal, data.good])
    assert len(torch.unique(parts.flatten(1), dim=0)) == len(parts)
    again = anomaly_set("brick wall, planted", 0, normal=2, test=3)
    assert torch.equal(data.bad, again.bad)
    with pytest.raises(UsageError, match="no set 'glass'"):
        anomaly_set("glass", 0, normal=1, test=1)


def test_one_drawing_stays_in_its_place() -> None:
    data = drawing_set("clock", 0, normal=2, test=3, side=64)
    assert data.masks is not None
    assert bool(data.masks.flatten(1).any(dim=1).all())
    # The same drawing: pictures differ little, and the border stays background.
    assert float((data.normal[0] - data.good[0]).abs().mean()) < 0.1
    assert float(data.images[..., :3, :].min()) > 0.9
