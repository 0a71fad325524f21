"""Verdict rules of the studies on image quality, on made-up rows, and the pieces that they measure with."""

from __future__ import annotations

import pytest
import torch

from binderclip.quality import PromptEnsemble, PromptQuality, PromptWords
from binderclip.quality.score.qboost import TRIPLES
from binderclip.studies import Row, Table
from binderclip.studies.papers import p012_clipiqa as clipiqa
from binderclip.studies.papers import p024_clip_lit as clip_lit
from binderclip.studies.papers import p177_qboost as qboost
from binderclip.studies.protocols.bundled import bundled
from binderclip.studies.protocols.data.distorted_tiles import SIDE


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


def made_qboost(two=0.5, three=0.6, pairs=0.55, both=0.7):
    values = {qboost.BINARY: two, qboost.TRIADIC: three, qboost.PAIRS: pairs, qboost.BOTH: both}
    return Table(Row(qboost.RANK, name, value, qboost.LEARNED) for name, value in values.items())


def test_p177_stands_on_the_neutral_word_and_on_the_synonyms(fails):
    fails("p177", made_qboost(), "all met", [])
    fails("p177", made_qboost(three=0.49), "not met", ["a neutral word between two"])
    fails("p177", made_qboost(both=0.59), "not met", ["synonyms raise it once more"])
    fails("p177", made_qboost(pairs=0.49), "essential met", ["synonyms raise it for two words"])
    fails("p177", made_qboost(pairs=0.75), "essential met", ["a neutral word raises it for synonyms"])


def test_p177_learns_logits_whose_softmax_says_the_tone():
    # One direction says the tone: three clouds on a line, four levels of which the first two are one tone.
    generator = torch.Generator().manual_seed(0)
    places = torch.tensor([2.0, 2.0, 0.0, -2.0])[None, :, None]
    known = torch.stack([places.expand(2, 4, 30), torch.zeros(2, 4, 30)], -1)
    known = known + 0.3 * torch.randn(known.shape, generator=generator)
    words = qboost.learned_words(known, 3)
    asked = torch.tensor([[2.0, 0.0], [0.0, 0.0], [-2.0, 0.0]])
    for row in TRIPLES:
        assert words.word_logits(asked, row).argmax(1).tolist() == [0, 1, 2]
    assert bool((PromptEnsemble(words)(asked).diff() < -0.2).all())
    # Each row has learned from another draw.
    assert not torch.allclose(words.word_logits(asked, TRIPLES[0]), words.word_logits(asked, TRIPLES[1]))


def test_p177_own_words_are_scaled_cosines():
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    score = PromptQuality(bundled())
    with torch.no_grad():
        direct = PromptWords(score).word_logits(images, ["good", "bad"])
        found = qboost.known_words(float(score.scale)).word_logits(score.embed(images), ["good", "bad"])
    assert torch.allclose(found, direct, atol=1e-3)


def made_clip_lit(words=16.4, first=17.0, refined=18.0, shaded=(9.0, 9.1, 11.0, 12.0), backlit=16.3):
    names = (clip_lit.INPUT, clip_lit.WORDS, clip_lit.INITIAL, clip_lit.REFINED)
    whole = zip(names, (backlit, words, first, refined), strict=True)
    parts = zip(names, shaded, strict=True)
    return Table(
        [Row(clip_lit.PSNR, name, value) for name, value in whole]
        + [Row(clip_lit.SHADED, name, value) for name, value in parts]
    )


def test_p024_stands_on_words_and_on_the_second_round(fails):
    fails("p024", made_clip_lit(), "all met", [])
    fails("p024", made_clip_lit(words=17.4), "not met", ["learned prompts make backlit pictures"])
    fails("p024", made_clip_lit(refined=16.9), "not met", ["a second round with refined prompts"])
    fails("p024", made_clip_lit(backlit=18.2), "essential met", ["with refined prompts they are more like"])
    fails("p024", made_clip_lit(shaded=(12.5, 9.1, 11.0, 12.0)), "essential met", ["and in the parts that lack light"])
    fails(
        "p024", made_clip_lit(shaded=(9.0, 11.5, 11.0, 12.0)), "essential met", ["in the parts that lack light learned"]
    )


def test_p024_begins_all_trainings_from_one_network_near_its_pictures():
    one, other = clip_lit.network(3), clip_lit.network(3)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(one(images), other(images))
        assert float((one.enhance(images) - images).abs().mean()) < 0.1
