"""Prompts, masks and the protocol."""

from __future__ import annotations

import pytest
import torch

from binderclip.errors import UsageError
from binderclip.segment.promptable import Masks, OracleSegmenter, PromptableSegmenter, Prompts


def test_one_prompt_is_a_batch_of_one():
    prompts = Prompts.of(points=[(3, 4), (5, 6)], labels=[1, 0], box=(1, 2, 9, 8))
    assert len(prompts) == 1
    assert prompts.points.tolist() == [[[3, 4], [5, 6]]]
    assert prompts.labels.tolist() == [[1, 0]]
    assert prompts.boxes.tolist() == [[1, 2, 9, 8]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "none of them"),
        ({"points": []}, "none of them"),
        ({"labels": [1]}, "labels without points"),
        ({"points": [(1, 2)], "labels": [1, 0]}, "labels are"),
        ({"points": [(1, 2)], "labels": [7]}, "1, 0 or -1"),
        ({"points": [(1, 2)], "labels": [-1]}, "no point"),
        ({"points": [(1, 2, 3)]}, "list of"),
        ({"box": (5, 5, 5, 9)}, "x0 < x1"),
        ({"mask": torch.zeros(2, 2, 2)}, "masks must be"),
    ],
)
def test_wrong_prompts_are_refused(arguments, said):
    with pytest.raises(UsageError, match=said):
        Prompts.of(**arguments)


def test_prompts_of_different_numbers_are_refused():
    with pytest.raises(UsageError, match="different numbers"):
        Prompts(torch.zeros(2, 1, 2), torch.ones(2, 1).long(), torch.tensor([[0.0, 0, 1, 1]]))


def test_flipping_twice_is_nothing():
    prompts = Prompts.of(points=[(3.25, 4)], box=(1, 2, 9, 8), mask=torch.rand(4, 6))
    once = prompts.flipped(20)
    assert once.points.tolist() == [[[16.75, 4]]]
    assert once.boxes.tolist() == [[11, 2, 19, 8]]
    back = once.flipped(20)
    for name in ("points", "boxes", "masks"):
        assert torch.equal(getattr(back, name), getattr(prompts, name))


def test_pick_takes_the_best_score():
    logits = torch.arange(12.0).view(1, 3, 2, 2) - 6
    masks = Masks(logits, torch.tensor([[0.1, 0.9, 0.5]]), logits)
    assert masks.best.tolist() == [1]
    assert torch.equal(masks.pick().logits[0, 0], logits[0, 1])
    assert torch.equal(masks.masks()[0], logits[0, 1] > 0)


def test_everything_keeps_to_the_protocol(tiny, blobs):
    assert isinstance(tiny, PromptableSegmenter)
    assert isinstance(OracleSegmenter(blobs), PromptableSegmenter)
    assert not isinstance(object(), PromptableSegmenter)
