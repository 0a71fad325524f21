"""Segmentation by example (p068): votes, masks and sizes, with a backbone of colours."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from binderclip.errors import DataError, UsageError
from binderclip.segment import FewShotSegmenter, PrototypeMatch
from binderclip.segment.few_shot import vote
from binderclip.segment.few_shot.segmenter import small_mask


@pytest.fixture
def segmenter(colours: Any) -> FewShotSegmenter:
    return FewShotSegmenter(colours, PrototypeMatch(level=2))


def test_an_example_finds_its_colour_in_pictures_of_another_size(segmenter: FewShotSegmenter, painted: Any) -> None:
    shown, mask = painted((0, 0, 16, 16), "red")
    asked, truth = painted((36, 16, 72, 48), "red", (96, 64))
    asked.paste("blue", (84, 0, 96, 24))
    found = segmenter(asked, segmenter.examples([shown], [mask]), label="brick")
    assert found.classes == ("background", "brick")
    assert found.size == (64, 96)
    labels = found.mask("brick").numpy()
    assert (labels & truth).sum() / (labels | truth).sum() > 0.75
    # One example: the label map is the larger of its two scores.
    drawn = F.interpolate(found.scores[None], (64, 96), mode="bilinear", align_corners=False)[0].argmax(0)
    assert torch.equal(drawn.int(), found.labels)


def test_nothing_like_it_is_an_answer_too(segmenter: FewShotSegmenter, painted: Any) -> None:
    shown, mask = painted((0, 0, 16, 16), "red")
    grey, _ = painted((0, 0, 1, 1), "grey")
    assert segmenter(grey, segmenter.examples([shown], [mask])).shares()["object"] == 0


def test_votes_by_hand_and_one_vote_is_its_mask() -> None:
    masks = torch.tensor([[[1, 1, 1, 0]], [[1, 1, 0, 0]], [[1, 0, 0, 0]]]).bool()
    assert vote(masks).tolist() == [[True, True, False, False]]  # 3/3, 2/3, 1/3, 0
    assert torch.equal(vote(masks[:1]), masks[0])
    assert not vote(torch.zeros(3, 2, 2, dtype=torch.bool)).any()
    # Half of the pixel with most votes, not of all examples.
    assert vote(torch.tensor([[[1, 1]], [[1, 0]], [[0, 0]], [[0, 0]]]).bool()).tolist() == [[True, True]]


def test_several_examples_vote_with_their_own_masks(segmenter: FewShotSegmenter, painted: Any) -> None:
    asked, _ = painted((8, 8, 24, 24), "red")
    shown = [painted((0, 0, 16, 16), "red"), painted((8, 4, 28, 20), "red"), painted((0, 16, 16, 32), "blue")]
    pictures, masks = zip(*shown, strict=True)
    three = segmenter(asked, segmenter.examples(pictures, masks))
    alone = [segmenter(asked, segmenter.examples([p], [m])) for p, m in shown]
    assert torch.equal(three.labels.bool(), vote(torch.stack([one.labels.bool() for one in alone])))
    assert torch.allclose(three.scores, torch.stack([one.scores for one in alone]).mean(0), atol=1e-5)


def test_small_masks_survive() -> None:
    mask = torch.zeros(100, 100, dtype=torch.bool)
    mask[40:43, 50] = True
    assert 1 <= int(small_mask(mask, 10).sum()) <= 2
    mask[:] = True
    assert bool(small_mask(mask, 10).all())
    half = torch.zeros(20, 40, dtype=torch.bool)
    half[:, :20] = True
    assert torch.equal(small_mask(half, 10)[:, :5], torch.ones(10, 5))
    assert not small_mask(half, 10)[:, 5:].any()


def test_mistakes_name_the_example(segmenter: FewShotSegmenter, painted: Any) -> None:
    picture, mask = painted((0, 0, 8, 8))
    with pytest.raises(UsageError, match="as many masks as pictures, at least one, not 0 and 1"):
        segmenter.examples([picture], [])
    with pytest.raises(DataError, match="the mask of example 2 is 16 x 32 pixels, its picture 32 x 32"):
        segmenter.examples([picture, picture], [mask, np.ones((32, 16))])
    with pytest.raises(DataError, match="the mask of example 1 is empty"):
        segmenter.examples([picture], [np.zeros_like(mask)])
    with pytest.raises(UsageError, match="cannot be called background"):
        segmenter(picture, segmenter.examples([picture], [mask]), label="background")
