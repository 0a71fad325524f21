"""Words for a task: chains, patches and negative mining, with answers that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from binderclip.segment.task import (
    Chains,
    FixedWords,
    Hypothesis,
    PatchHypotheses,
    VocabularyGate,
    VocabularyScorer,
    WordProposer,
)
from binderclip.segment.task.words import mined, normalised, patches, vocabulary_chain

PICTURE = Image.new("RGB", (60, 40), "white")


def test_chains_ask_once_for_each_synonym():
    asked = []

    def ask(image, synonym):
        asked.append(synonym)
        return {"camouflaged animal": ("owl", "bark"), "disguised animal": ("owl", "tree")}.get(synonym, ("", " "))

    chains = Chains(ask)
    assert isinstance(chains, WordProposer)
    found = chains.propose(PICTURE, "the hidden animal")
    assert asked == ["camouflaged animal", "disguised animal", "hidden animal"]
    assert [(h.fore, h.back) for h in found] == [("owl", "bark"), ("owl", "tree")]
    assert chains.propose(PICTURE, "the hidden animal", found) == found
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("task", "asked"),
    [
        ("the hidden animal", ["camouflaged animal", "disguised animal", "hidden animal"]),
        ("the small Hidden owl", ["small camouflaged owl", "small disguised owl", "small hidden owl"]),
        ("the glass", ["glass"]),
        ("the shadow of the tree", ["shadow of the tree"]),
        ("every fire truck", ["fire truck"]),
        ("flower", ["flower"]),
    ],
)
def test_only_a_hidden_thing_is_asked_for_as_camouflage(task, asked):
    """A language model is sent these; any other sentence goes there as it is."""
    got = []
    Chains(lambda image, phrase: got.append(phrase) or ("", "")).propose(PICTURE, task)
    assert got == asked


def test_synonyms_are_of_any_word():
    got = []
    chains = Chains(lambda image, phrase: got.append(phrase) or ("", ""), ("shadow", "silhouette", "outline"))
    chains.propose(PICTURE, "the shadow of the tree")
    assert got == ["shadow of the tree", "silhouette of the tree", "outline of the tree"]


class Dogged(VocabularyScorer):
    """Every picture shows a dog, in whatever words; what was asked is kept."""

    def __init__(self, *vocabulary):
        super().__init__(None, vocabulary or ("dog", "flower"), ("grass", "bark"))
        self.texts = []

    def probabilities(self, images, texts):
        self.texts.append(tuple(texts))
        row = torch.tensor([1.0 + ("dog" in text) for text in texts])
        return (row / row.sum()).expand(len(images), -1)


@pytest.mark.parametrize(
    ("task", "vocabulary", "word"),
    [
        ("flower", ("dog", "flower"), "flower"),
        ("red flowers", ("dog", "flower"), "flower"),
        ("flower on the dog", ("dog", "flower"), "flower"),
        ("hidden animal", ("tulip", "dog", "flower"), "dog"),
        ("thing", ("flower", "dog"), "dog"),
        ("fire truck", ("truck", "dog", "fire truck"), "fire truck"),
    ],
)
def test_the_sentence_has_the_last_word_about_what_is_named(task, vocabulary, word):
    scorer = Dogged(*vocabulary)
    assert vocabulary_chain(scorer)(PICTURE, task)[0] == word
    found = PatchHypotheses(Dogged(*vocabulary), lambda image, word: None, erase).propose(PICTURE, f"the {task}")
    assert {own.fore for own in found} == {word}


def test_words_take_the_place_of_the_thing_in_the_sentence():
    scorer = Dogged("owl", "dog", "tree")
    vocabulary_chain(scorer)(PICTURE, "camouflaged animal")
    assert scorer.texts == [("a camouflaged owl", "a camouflaged dog"), ("camouflaged in grass", "camouflaged in bark")]
    scorer.texts.clear()
    vocabulary_chain(scorer)(PICTURE, "owl on a branch")
    assert scorer.texts == [("an owl on a branch",), ("an owl on a branch in grass", "an owl on a branch in bark")]


def test_odd_answers():
    same = Chains(lambda image, synonym: ("owl", "owl")).propose(PICTURE, "the hidden animal")
    assert [h.back for h in same] == ["environment", None, None]
    none = Chains(lambda image, synonym: ("", "")).propose(PICTURE, "the animal")
    assert none == [Hypothesis("the animal", "environment")]
    assert FixedWords().propose(PICTURE, " every cup ") == [Hypothesis("every cup")]


def test_lists_of_words_need_not_be_equally_long():
    """Neither an empty word nor a second copy fills the shorter one: both would count in the mean of maps."""
    fixed = FixedWords(("a", "b"), ("c",)).propose(PICTURE, "x")
    assert [(h.fore, h.back) for h in fixed] == [("a", "c"), ("b", None)]
    fixed = FixedWords(("a",), ("c", "d", "e")).propose(PICTURE, "x")
    assert [(h.fore, h.back) for h in fixed] == [("a", "c"), (None, "d"), (None, "e")]
    answers = iter([("owl", "bark"), ("fox", ""), ("", "snow")])
    chains = Chains(lambda image, synonym: next(answers)).propose(PICTURE, "the hidden animal")
    assert [h.fore for h in chains if h.fore is not None] == ["owl", "fox"]
    assert [h.back for h in chains if h.back is not None] == ["bark", "snow"]


def test_patches_are_the_picture_its_halves_and_quarters():
    found = patches((60, 40))
    assert found[0] == (0, 0, 60, 40)
    area = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in found]
    assert area == [2400] + [1200] * 4 + [600] * 4
    cover = np.zeros((40, 60), dtype=int)
    for x0, y0, x1, y1 in found:
        cover[y0:y1, x0:x1] += 1
    assert (cover == 4).all()


class Oracle(VocabularyScorer):
    """A word's probability is the share of its colour that a picture shows; what nothing shows is a sure lion."""

    colours = {"owl": 0, "fox": 2}

    def __init__(self):
        super().__init__(None, ("lion", "owl", "fox"), ("snow", "sand"))

    def probabilities(self, images, texts):
        rows = []
        for image in images:
            pixels = np.asarray(image, dtype=float)
            share = {w: float((pixels[..., c] - pixels.max(-1, where=np.arange(3) != c, initial=0) > 50).mean())
                     for w, c in self.colours.items()}  # fmt: skip
            rows.append([share.get(word, 1 - sum(share.values())) for word in texts])
        return torch.tensor(rows)


def locate(image, word):
    """The box around what has the word's colour; of a word that is not there the left upper corner."""
    if word not in Oracle.colours:
        return (0, 0, 5, 5)
    channel = Oracle.colours[word]
    pixels = np.asarray(image, dtype=float)
    rows, columns = np.nonzero(pixels[..., channel] - pixels.max(-1, where=np.arange(3) != channel, initial=0) > 50)
    return (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1) if len(rows) else None


def erase(image, box, paint, avoid):
    pixels = np.array(image)
    x0, y0, x1, y1 = box
    pixels[y0:y1, x0:x1] = 255
    return Image.fromarray(pixels)


def scene(colour=(200, 0, 0)):
    pixels = np.full((40, 60, 3), 255, dtype=np.uint8)
    pixels[2:17, 3:28] = colour  # fills most of the left upper quarter
    return Image.fromarray(pixels)


def test_erasing_shows_which_name_is_true():
    """Seven of nine patches say lion, by the majority; erasing changes nothing there."""
    found = PatchHypotheses(Oracle(), locate, erase).propose(scene(), "the animal")
    assert found[0].fore == "owl"
    assert found[0].box == (0, 0, 30, 20)
    assert sum(h.weight for h in found) == pytest.approx(1)
    assert {h.weight for h in found if h.fore != "owl"} == {0}


def test_the_eraser_is_told_both_words():
    told = []

    def spy(image, box, paint, avoid):
        told.append((paint, avoid))
        return erase(image, box, paint, avoid)

    PatchHypotheses(Oracle(), locate, spy).propose(scene(), "the animal")
    assert len(told) == 9
    assert {avoid for _, avoid in told} == {"lion", "owl"}
    assert {paint for paint, _ in told} <= {"snow", "sand"}


def test_the_gate_lets_through_what_a_ninth_of_the_picture_shows():
    class Ninths(VocabularyScorer):
        def __init__(self):
            super().__init__(None, ("owl", "fox", "lion", "cat"))

        def probabilities(self, images, texts):
            assert [image.size for image in images] == [(60, 40), *((20, h) for h in (13, 14, 13) for _ in range(3))]
            rows = torch.full((10, 4), 0.01)
            rows[0, 0], rows[7, 1], rows[3, 2] = 0.5, 0.9, 0.04
            return rows

    found = VocabularyGate(Ninths()).propose(PICTURE, "every animal")
    assert [h.fore for h in found] == ["fox", "owl"]
    assert VocabularyGate(Ninths(), 0.95).propose(PICTURE, "every animal") == []


def test_rounds_multiply_with_a_floor():
    proposer = PatchHypotheses(Oracle(), locate, erase, floor=0.1)
    first = proposer.propose(scene(), "x")
    second = proposer.propose(scene(), "x", first)
    d = {h.box: h.weight for h in first}
    raw = {box: w * max(w, 0.1) for box, w in d.items()}
    for own in second:
        assert own.weight == pytest.approx(raw[own.box] / sum(raw.values()), abs=1e-6)
    alone = PatchHypotheses(Oracle(), locate, erase, cumulate=False)
    assert alone.propose(scene(), "x", first) == first


def test_a_constant_contrast_is_sharpened_geometrically():
    d = torch.tensor([0.6, 0.3])
    shares = torch.full((2,), 0.5)
    for n in range(1, 5):
        shares = normalised(mined(d, shares))
        assert float(shares[0] / shares[1]) == pytest.approx(2**n, rel=1e-4)
    assert torch.equal(mined(torch.zeros(2), shares), shares)
    assert normalised(torch.zeros(4)).tolist() == [0.25] * 4


def test_nothing_to_erase_leaves_all_patches_equal():
    found = PatchHypotheses(Oracle(), lambda image, word: None, erase).propose(scene(), "x")
    assert [h.weight for h in found] == pytest.approx([1 / 9] * 9)
    assert PatchHypotheses(Oracle(), locate, erase).propose(scene((0, 0, 200)), "x")[0].fore == "fox"
