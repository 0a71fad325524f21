"""Verdict rules of the studies on detectors of generated pictures, on made-up rows, and what they measure with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.studies import Row, Table
from binderclip.studies.papers import p053_panoptic_patches as panoptic
from binderclip.studies.protocols.made_fakes import SEEN, UNSEEN, rounded, tiles


def made_panoptic(full=0.9, mixed=0.85, plain=0.8, share=0.15, plain_share=0.25):
    scores = {panoptic.FULL: full, panoptic.MIXED: mixed, panoptic.PLAIN: plain, panoptic.HIDDEN: 0.8}
    rows = [Row(panoptic.AP, arm, value, name) for arm, value in scores.items() for name in UNSEEN]
    rows += [Row(panoptic.AP, arm, 0.99, SEEN) for arm in scores]
    rows += [Row(panoptic.SHARE, panoptic.FULL, share), Row(panoptic.SHARE, panoptic.PLAIN, plain_share)]
    return Table(rows)


def test_p053_stands_on_both_the_rise_and_the_fall(fails):
    both = "mixed and contrasted against plain"
    fails("p053", made_panoptic(), "all met", [])
    fails("p053", made_panoptic(full=0.78, mixed=0.7), "not met", [both, "the average precision on unseen"])
    fails("p053", made_panoptic(share=0.3), "not met", [both, "the share of the strongest"])
    fails("p053", made_panoptic(mixed=0.95), "essential met", ["the patch contrast adds"])


def test_p053_plants_its_mark_in_one_patch_and_labels_every_arm():
    real = torch.rand(panoptic.TRAIN, 3, panoptic.SIDE, panoptic.SIDE, generator=torch.Generator().manual_seed(0))
    marked = panoptic.marked(real, 3)
    changed = (marked != real).any(1)
    assert changed[:, : panoptic.PATCH, : panoptic.PATCH].flatten(1).any(1).all()
    assert not changed[:, panoptic.PATCH :].any()
    assert not changed[:, :, panoptic.PATCH :].any()
    assert int(changed.flatten(1).sum(1).max()) <= 36
    for arm, (images, labels, cells) in panoptic.pools(real, marked, 0).items():
        assert (
            images.shape[0]
            == labels.shape[0]
            == cells.shape[0]
            == (2 if arm == panoptic.PLAIN else 4 if arm != panoptic.HIDDEN else 6) * len(real)
        )
        assert torch.equal(cells.amax(1), labels)
    generated = panoptic.pools(real, marked, 0)[panoptic.MIXED][2][2 * len(real) :]
    assert generated.sum(1).tolist() == [8.0] * 2 * len(real)


def test_tiles_are_pixels_of_their_photographs_in_8_bits():
    found = tiles([3, 4], 4, 16, np.random.default_rng(0))
    assert found.shape == (4, 3, 16, 16)
    assert torch.allclose(rounded(found), found, atol=1e-6)
    assert rounded(torch.tensor([[[[0.5]]]])).item() == pytest.approx(128 / 255)
