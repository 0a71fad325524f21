"""p101: random labels fail every criterion, and the measures are what they say."""

from __future__ import annotations

import torch

from binderclip.studies import load_study
from binderclip.studies.harness.run import null_passes
from binderclip.studies.papers import p101_flashsplat as study


def test_random_labels_meet_no_criterion():
    assert null_passes(load_study("p101"), range(200, 216)) == []


def test_true_labels_score_one_and_the_ground_is_no_object():
    scene, label = study.scene_of(200)
    camera = study.cameras_of(200)[0]
    mask = study.true_mask(scene, label, camera)
    assert set(mask.unique().tolist()) == {0, 1, 2, 3}
    chosen = torch.stack([label == k + 1 for k in range(study.OBJECTS)])
    assert study._iou(scene, label, chosen, [camera]) == 1.0
    shares = sum(study.lifted_share(scene, label == k, camera) for k in range(4))
    torch.testing.assert_close(shares, scene.render(camera).alpha)
