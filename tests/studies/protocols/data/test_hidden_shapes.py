"""Shapes painted like their ground (p131): the masks are true, the contrast is what it says, and what finds them."""

from __future__ import annotations

import pytest
import torch

from binderclip.studies.protocols.data.hidden_shapes import contrasting_regions, hidden_shapes


def test_only_the_shapes_change_with_the_contrast() -> None:
    near, far = (hidden_shapes(12, 3, contrast=contrast, pairs=0.5) for contrast in (0.0, 0.1))
    assert {len(masks) for masks in near.masks} == {1, 2}
    for before, after, masks in zip(near.images, far.images, near.masks, strict=True):
        change = (after - before).norm(dim=0)
        inside = masks.any(0)
        assert float(change.max()) <= 0.1 + 1e-5
        assert float(change[inside].median()) == pytest.approx(0.1, abs=0.02)
        outside = torch.nn.functional.max_pool2d(inside[None].float(), 3, 1, 1)[0] == 0  # a rim is partly covered
        assert float(change[outside].max()) == 0
        assert not (masks.sum(0) > 1).any()


def test_shapes_that_are_left_out_do_not_occur_and_labels_count_the_others() -> None:
    scenes = hidden_shapes(20, 4, contrast=0.2, shapes=("ring", "cross"))
    assert set(torch.cat(scenes.labels).tolist()) == {0, 1}
    for masks, labels in zip(scenes.masks, scenes.labels, strict=True):
        for mask, label in zip(masks, labels.tolist(), strict=True):
            rows, columns = mask.nonzero().float().mean(0).round().long().tolist()
            assert bool(mask[rows, columns]) == bool(label)  # a ring is empty in its middle


def test_a_region_of_another_colour_is_found_and_a_speck_is_not() -> None:
    image = torch.full((3, 64, 64), 0.5)
    image[0, 10:30, 20:40] = 1.0
    image[2, 50:52, 50:52] = 1.0
    masks, scores = contrasting_regions(image, sigma=0.5)
    assert len(masks) == len(scores) == 1
    truth = torch.zeros(64, 64, dtype=torch.bool)
    truth[10:30, 20:40] = True
    assert int((masks[0] ^ truth).sum()) < 80
    assert float(scores[0]) == pytest.approx(0.5, abs=0.1)
