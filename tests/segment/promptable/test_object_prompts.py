"""Prompts for known masks: clicks and boxes lie where the object is, corrections where the answer is wrong."""

from __future__ import annotations

import torch

from binderclip.segment.promptable.drawn import CORNERS
from binderclip.segment.promptable.object_prompts import correction, first_prompts


def test_first_prompts_lie_in_the_object() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = torch.zeros(200, 20, 20, dtype=torch.bool)
    masks[:, 5:15, 4:10] = True
    points, labels = first_prompts(masks, generator)
    clicks, boxes = labels[:, 0] == 1, labels[:, 0] == CORNERS[0]
    assert 70 < int(clicks.sum()) < 130
    assert bool((clicks | boxes).all())
    cells = (points[clicks, 0] * 20).long()
    assert bool(masks[0, cells[:, 1], cells[:, 0]].all())
    assert labels[boxes, 1].unique().tolist() == [CORNERS[1]]
    corners = points[boxes].flatten(1) * 20
    # A tenth of the object's 6 x 10 pixels at most.
    assert bool(((corners - torch.tensor([4.0, 5, 10, 15])).abs() <= torch.tensor([0.6, 1, 0.6, 1]) + 1e-4).all())


def test_corrections_fall_on_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    found, truth = torch.rand(50, 8, 8, generator=generator) > 0.5, torch.rand(50, 8, 8, generator=generator) > 0.5
    found[0] = truth[0]
    points, labels = correction(found, truth, generator)
    cells = (points[:, 0] * 8).long()
    rows = torch.arange(50)
    assert labels[0].item() == -1
    wanted = truth[rows, cells[:, 1], cells[:, 0]].long()
    assert torch.equal(labels[1:, 0], wanted[1:])
    assert bool((found ^ truth)[rows, cells[:, 1], cells[:, 0]][1:].all())
