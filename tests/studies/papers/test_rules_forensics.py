"""Verdict rules of the studies on detectors of generated pictures, on made-up rows, and what they measure with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from binderclip.studies import Row, Table
from binderclip.studies.papers import p053_panoptic_patches as panoptic
from binderclip.studies.papers import p135_deeclip as deeclip
from binderclip.studies.papers import p168_aide as aide
from binderclip.studies.protocols.data.made_fakes import SEEN, UNSEEN, rounded, tiles


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
    assert rounded(torch.full((1, 3, 1, 1), 0.5)).unique().item() == pytest.approx(128 / 255)


def made_aide(least=0.4, both=0.9, noise=0.85, line=0.8):
    rows = [Row(aide.CAUGHT, aide.BOTH, 0.9 if name == SEEN else 0.8, name) for name in (SEEN, *UNSEEN)]
    rows.append(Row(aide.CAUGHT, aide.BOTH, least, aide.FAINT))
    scores = {aide.BOTH: both, aide.NOISE: noise, aide.SHOWN: 0.7, aide.LINE: line}
    rows += [Row(aide.AP, arm, value, name) for arm, value in scores.items() for name in aide.TESTED]
    return Table(rows)


def test_p168_stands_on_the_collapse_and_on_both_experts_together(fails):
    fall, together = "both experts find fewer fakes", "both experts against the better one"
    fails("p168", made_aide(), "all met", [])
    fails("p168", made_aide(both=0.84), "all met", [])  # within the margin
    fails("p168", made_aide(least=0.82), "not met", [fall])
    fails("p168", made_aide(both=0.8), "not met", [together])
    fails("p168", made_aide(noise=0.95), "not met", [together])


def test_p168_reads_figures_of_the_sanity_check_and_noise_in_thirty_numbers():
    real = torch.linspace(-2, -1, 10)
    rows = {(row.metric, row.setting): row.value for row in aide.figures("x", real, {SEEN: -real, "nearest": real})}
    assert rows[aide.CAUGHT, SEEN] == 1.0
    assert rows[aide.CAUGHT, "nearest"] == 0.0
    assert rows[aide.AP, SEEN] == pytest.approx(1.0)
    assert rows[aide.TRUE, ""] == 1.0
    rough = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    numbers = aide.residuals(torch.stack([rough[0], 0.1 * rough[0]]))
    assert numbers.shape == (2, 30)
    assert numbers[0] - numbers[1] == pytest.approx([2.302] * 30, abs=0.01)  # ten times the noise


def made_deeclip(full=0.9, degraded=0.8, fused=0.85, line=0.8, line_degraded=0.7):
    unseen = {deeclip.FULL: full, deeclip.FUSED: fused, deeclip.LINE: line, deeclip.ADAPTED: 0.85}
    rows = [Row(deeclip.AP, arm, value, name) for arm, value in unseen.items() for name in (SEEN, *UNSEEN)]
    after = {deeclip.FULL: degraded, deeclip.LINE: line_degraded}
    return Table([*rows, *(Row(deeclip.AP, arm, v, name) for arm, v in after.items() for name in deeclip.DEGRADED)])


def test_p135_stands_on_unseen_generators_and_on_degraded_pictures(fails):
    against = "fused, with triplets, against the line: average precision"
    fails("p135", made_deeclip(), "all met", [])
    fails(
        "p135",
        made_deeclip(line=0.95, fused=0.85),
        "not met",
        [f"{against} on"],
    )
    fails(
        "p135",
        made_deeclip(line_degraded=0.85),
        "not met",
        [f"{against} after"],
    )
    fails("p135", made_deeclip(fused=0.95), "essential met", ["the triplet loss adds"])
