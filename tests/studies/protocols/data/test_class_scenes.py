"""Scenes of twelve classes: their label maps, and scores of single scenes by counting pixels."""

from __future__ import annotations

import pytest
import torch

from binderclip.studies.protocols.data.class_scenes import CLASSES, class_scenes, scene_ious


def test_label_maps_name_what_the_captions_name() -> None:
    made, labels = class_scenes(3, 4, 64, "train")
    assert labels.shape == (4, 64, 64)
    for row in range(4):
        there = {CLASSES[kind] for kind in labels[row].unique().tolist()} - {"background"}
        assert there <= set(made.names[row])
        assert all(name in made.captions[row] for name in there)
    assert torch.equal(labels == 0, made.semantic == 0)


def test_scores_are_means_over_the_classes_that_are_there() -> None:
    truth = torch.zeros(1, 8, 8, dtype=torch.long)
    truth[0, :4, :4], truth[0, 4:, 4:] = 1, 2
    found = truth.clone()
    found[0, :4, :2], found[0, 0, 4:] = 2, 1  # half of class 1 wrong; 4 pixels of the ground taken for it
    (whole,), (edges,) = scene_ious(found, truth)
    assert whole == pytest.approx((28 / 32 + 8 / 20 + 16 / 24) / 3)
    (without,), _ = scene_ious(found, truth, ground=False)
    assert without == pytest.approx((8 / 16 + 16 / 24) / 2)
    assert scene_ious(truth, truth) == ((1.0,), (1.0,))
    assert 0 < edges < 1
