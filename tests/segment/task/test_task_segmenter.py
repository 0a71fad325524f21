"""Rounds from words to masks, with parts whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.errors import UsageError
from binderclip.segment.task import (
    BestScore,
    CandidateMasks,
    ClosestToMean,
    FixedWords,
    FromPoints,
    FromWordBoxes,
    Hypothesis,
    LastRound,
    Loop,
    TaskGenericSegmenter,
    UnionOfMasks,
)


@pytest.mark.parametrize("row", [0, 1, 2])
def test_the_named_object_is_masked(picture, oracle, places, blobs, row):
    word = ("cat", "dog", "car")[row]
    found = TaskGenericSegmenter(oracle, FixedWords((word,), ("grass",)), places)(picture, "the hidden thing")
    assert torch.equal(found.mask, blobs[row])
    assert oracle.encoded == 1
    assert found.words == (word,)
    assert found.around == ("grass",)
    assert len(found.rounds) == 6


def test_one_round_is_one_question(picture, oracle, places):
    asked = []
    predict = oracle.predict
    oracle.predict = lambda *a, **k: asked.append(a[1]) or predict(*a, **k)
    once = TaskGenericSegmenter(oracle, FixedWords(("cat",)), places, loop=Loop(1))
    once(picture, "x")
    assert len(asked) == 1
    assert asked[0].boxes is None
    six = TaskGenericSegmenter(oracle, FixedWords(("cat",)), places)
    six(picture, "x")
    assert len(asked) == 7
    # 2:18 x 3:23 moves by floor(2) and floor(1.6), then by ceil(2.2) and ceil(1.7)
    assert asked[2].boxes[0].tolist() == [1, 1, 26, 20]


def test_gensam_weights_the_original_and_int_what_was_seen(picture, oracle, places):
    first = np.asarray(picture, dtype=float)
    for way in ("heatmap", "mask"):
        places.seen.clear()
        loop = Loop(3, way, 0.3, None)
        found = TaskGenericSegmenter(oracle, FixedWords(("cat",)), places, loop=loop)(picture, "x")
        expected = first
        for number, step in enumerate(found.rounds):
            np.testing.assert_allclose(places.seen[number][0], expected, atol=2)
            weight = step.probs
            if way == "heatmap":
                weight = torch.nn.functional.interpolate(step.heat[None, None], size=(40, 60), mode="bilinear")[0, 0]
                weight = (weight - weight.min()) / (weight.max() - weight.min())
            source = first if way == "heatmap" else expected
            expected = 0.3 * source * weight.numpy()[..., None] + 0.7 * expected


def test_int_asks_for_each_box(picture, oracle, places, blobs):
    asked, given = [], []
    predict = oracle.predict
    oracle.predict = lambda *a, **k: given.append(a[1]) or predict(*a, **k)

    def boxes(image, word):
        asked.append(word)
        return [(30.0, 6.0, 56.0, 34.0), (3.0, 2.0, 23.0, 18.0)]

    found = TaskGenericSegmenter(
        oracle, FixedWords(("car",)), places, FromWordBoxes(), BestScore(), ClosestToMean(1), Loop(2, "mask"),
        boxes=boxes,
    )(picture, "x")  # fmt: skip
    assert asked == ["car", "car"]
    assert given[0].boxes.tolist() == [[30, 6, 56, 34], [3, 2, 23, 18]]
    assert torch.equal(found.mask, blobs[2])


def test_each_word_counts_once_in_the_mean(picture, oracle, places, blobs):
    """Two words for the object and one for the ground: (cat + dog) / 2 - car, every map from 0 to 1."""
    one = TaskGenericSegmenter(oracle, FixedWords(("cat", "dog"), ("car",)), places, loop=Loop(1))
    heat = one(picture, "x").rounds[0].heat
    assert places.seen[0][1] == ("cat", "dog", "car")
    maps = torch.nn.functional.avg_pool2d(blobs[None].float(), 4)[0]
    expected = (maps[0] + maps[1]) / 2 - maps[2]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    torch.testing.assert_close(heat, expected)


def test_only_the_leading_words_count(picture, oracle, places, blobs):
    class Sure:
        def propose(self, image, task, previous=(), seen=None):
            return [Hypothesis("dog", weight=0.9), Hypothesis("car", weight=0.1)]

    found = TaskGenericSegmenter(oracle, Sure(), places, loop=Loop(1), leading=1)(picture, "x")
    assert found.words == ("dog",)
    assert torch.equal(found.mask, blobs[1])


def test_a_flat_heatmap_asks_with_the_whole_picture_as_box(picture, oracle):
    asked = []
    predict = oracle.predict
    oracle.predict = lambda *a, **k: asked.append(a[1]) or predict(*a, **k)
    flat = TaskGenericSegmenter(oracle, FixedWords(("cat",)), lambda image, words: torch.ones(len(words), 5, 5))
    flat(picture, "x")
    assert asked[0].points is None
    assert asked[0].boxes.tolist() == [[0, 0, 60, 40]]


def test_rounds_end_when_nothing_changes(picture, oracle, places):
    settled = TaskGenericSegmenter(oracle, FixedWords(("cat",)), places, loop=Loop(6, tolerance=0.003))
    assert len(settled(picture, "x").rounds) == 3


def test_the_round_closest_to_the_mean():
    a, b = torch.zeros(2, 4, 4)
    a[:2], b[:3] = 1, 1
    odd = 1 - a
    assert ClosestToMean(2)(torch.stack([odd, a, a, a, b])) == 1
    assert ClosestToMean(1)(torch.stack([odd, b, a, a, a])) == 2
    assert ClosestToMean(2)(torch.stack([a, a, a])) == 0
    assert LastRound()(torch.stack([a, b])) == 1
    # logits are averaged, not probabilities: one that is very sure outweighs two that are nearly not
    logits = torch.tensor([[[9.0]], [[-1.0]], [[-1.0]]])
    assert ClosestToMean(2)(logits.sigmoid()) == 0
    with pytest.raises(UsageError):
        ClosestToMean(3)


def test_mistakes_are_named(picture, oracle, places):
    segmenter = TaskGenericSegmenter(oracle, FixedWords(("cat",)), places)
    with pytest.raises(UsageError, match="empty"):
        segmenter(picture, "  ")
    with pytest.raises(UsageError, match="localiser"):
        TaskGenericSegmenter(oracle, FixedWords(("cat",)), None, FromPoints())(picture, "x")
    for wrong in ({"rounds": 0}, {"share": 2}, {"reweight": "prayer"}):
        with pytest.raises(UsageError):
            Loop(**wrong)
    none = CandidateMasks(torch.zeros(0, 4, 6), torch.zeros(0))
    assert not UnionOfMasks()(Image.new("RGB", (6, 4)), none, []).any()
