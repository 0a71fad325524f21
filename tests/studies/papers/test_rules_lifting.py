"""p101: labels that are not as good save no time, and the measures are what they say."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from binderclip.studies import Table
from binderclip.studies.papers import p101_flashsplat as study


def test_labels_that_are_not_as_good_have_saved_no_time(monkeypatch: pytest.MonkeyPatch):
    for name, value in {"STEPS": 30, "VIEWS": 5, "UNSEEN": 2, "DRAWS": 1}.items():
        monkeypatch.setattr(study, name, value)
    table = Table([replace(row, seed=seed) for seed in (200, 201) for row in study.measure(seed)])
    for metric in (study.FASTER, study.FASTER_THAN_ALL):
        assert (table.values(metric, study.NULL, study.CLEAN) == 0).all()
        assert (table.values(metric, study.CLOSED, study.CLEAN) != 0).any()
    slower = table.values(study.FASTER_THAN_ALL, study.CLOSED, study.CLEAN)
    assert (slower >= table.values(study.FASTER, study.CLOSED, study.CLEAN)).all()
    assert table.mean(study.IOU, study.NULL, study.DRAWN) < 0.5 * table.mean(study.IOU, study.CLOSED, study.DRAWN)
    steps = table.values(study.NEEDED, study.DESCENT, study.CLEAN)
    assert set(steps) <= {15, 30}


def test_true_labels_score_one_and_the_ground_is_no_object():
    scene, label = study.scene_of(200)
    camera = study.cameras_of(200)[0]
    mask = study.true_mask(scene, label, camera)
    assert set(mask.unique().tolist()) == {0, 1, 2, 3}
    chosen = torch.stack([label == k + 1 for k in range(study.OBJECTS)])
    assert study._iou(scene, label, chosen, [camera]) == 1.0
    shares = sum(study.lifted_share(scene, label == k, camera) for k in range(4))
    torch.testing.assert_close(shares, scene.render(camera).alpha)
