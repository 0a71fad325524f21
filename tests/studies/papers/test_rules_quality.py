"""Verdict rules of the studies on image quality, on made-up rows, and the pieces that they measure with."""

from __future__ import annotations

import pytest
import torch

from binderclip.studies import Row, Table
from binderclip.studies.papers import p012_clipiqa as clipiqa
from binderclip.studies.protocols.distorted_tiles import SIDE


def made_clipiqa(matching=0.4, single=-0.1, learned=0.6, quality=0.1, other=0.0):
    values = {
        clipiqa.MATCHING: matching, clipiqa.SINGLE: single, clipiqa.LEARNED: learned, clipiqa.QUALITY: quality,
        clipiqa.OTHER: other,
    }  # fmt: skip
    return Table(Row(clipiqa.RANK, name, value, clipiqa.ALL) for name, value in values.items())


def test_p012_stands_on_the_pair_and_on_the_learned_context(fails):
    fails("p012", made_clipiqa(), "all met", [])
    fails("p012", made_clipiqa(single=0.45), "not met", ["the matching pair follows the level, and"])
    # Better than a prompt that goes the wrong way is not enough.
    fails("p012", made_clipiqa(matching=-0.05, other=-0.1), "not met", ["the matching pair follows the level, and"])
    fails(
        "p012",
        made_clipiqa(learned=-0.05, quality=-0.3),
        "not met",
        ["a learned context follows", "a learned context reaches"],
    )
    fails("p012", made_clipiqa(quality=0.7), "not met", ["a learned context follows"])
    fails("p012", made_clipiqa(learned=0.4), "essential met", ["a learned context reaches"])
    fails("p012", made_clipiqa(other=0.5), "essential met", ["the matching pair follows the level better"])


def test_p012_learns_from_other_photographs_than_it_tests_on_and_ranks_by_level():
    learn, test = clipiqa.tiles(3)
    assert learn.shape == (20, 3, SIDE, SIDE)
    assert test.shape == (10, 3, SIDE, SIDE)
    again, _ = clipiqa.tiles(3)
    assert torch.equal(learn, again)
    assert not torch.equal(learn, clipiqa.tiles(4)[0])
    falling = torch.tensor([[0.9, 0.2], [0.7, 0.2], [0.1, 0.2]])
    assert clipiqa.tracked(falling) == pytest.approx(0.5)  # one falls with the level, one never moves
    assert clipiqa.tracked(1 - falling) == pytest.approx(-0.5)
