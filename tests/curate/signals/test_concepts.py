"""Concept frequency (p095, arXiv 2405.21070): the loop over all concepts, plurals, negatives, mistakes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binderclip.curate import concept_frequency, singular
from binderclip.errors import UsageError

WORDS = st.sampled_from(["Red", "bow", "ties", "tie", "bird", "CRANES", "crane", "foxes", "x2", "-", "it's"])
TEXTS = st.lists(WORDS, max_size=6).map(" ".join)
NAMES = st.lists(st.sampled_from(["red", "bow tie", "crane", "fox", "birds"]), min_size=1, max_size=3)


def looped(captions: list[str], names: list[list[str]], against: dict[str, list[str]]) -> list[int]:
    """As the paper says it: every caption against every name of every concept."""

    def bag(text: str) -> list[str]:
        return [singular(word) for word in re.sub("[^a-z ]", " ", text.lower()).split()]

    counts = []
    for own in names:
        barred = {word for name in own for text in against.get(name, []) for word in bag(text)}
        counts.append(0)
        for caption in captions:
            words = bag(caption)
            if any(word in words for word in barred):
                continue
            counts[-1] += any(all(word in words for word in bag(name)) for name in own)
    return counts


@settings(max_examples=200, deadline=None)
@given(captions=st.lists(TEXTS, max_size=8), names=st.lists(NAMES, min_size=1, max_size=4))
def test_it_is_the_loop_over_captions_and_concepts(captions: list[str], names: list[list[str]]) -> None:
    against = {"crane": ["bird"]} if any("crane" in own for own in names) else {}
    assert concept_frequency(captions, names, negatives=against).tolist() == looped(captions, names, against)
    joined = [" or ".join(own) for own in names]
    assert concept_frequency(captions, joined, negatives=against).tolist() == looped(captions, names, against)


def test_names_are_split_brackets_left_out_and_words_may_stand_apart() -> None:
    captions = ["a tie that is red", "red ties", "Tie!", "an old sub", "submarines", "t-shirt", "shirts, t"]
    concepts = ["red tie (for men)", "submarine / sub", "t-shirt", ["tie or sub"]]
    assert concept_frequency(captions, concepts).tolist() == [2, 2, 2, 0]


def test_a_caption_counts_once_for_all_names() -> None:
    assert concept_frequency(["a dog, a hound, dogs"], ["dog or hound"]).tolist() == [1]


def test_another_lemmatizer_takes_the_place_of_the_rules() -> None:
    assert concept_frequency(["oxen", "foxes"], ["ox"], lemmatize=lambda word: word).tolist() == [0]
    assert concept_frequency(["oxen", "foxes"], ["ox"], lemmatize=lambda word: "ox").tolist() == [2]


@pytest.mark.parametrize(
    ("plural", "word"),
    [("dogs", "dog"), ("boxes", "box"), ("churches", "church"), ("glasses", "glass"), ("glass", "glass"),
     ("cherries", "cherry"), ("pies", "pie"), ("bus", "bus"), ("hens", "hen"), ("geese", "goose"), ("is", "is"),
     ("tennis", "tennis"), ("houses", "house")],
)  # fmt: skip
def test_plurals(plural: str, word: str) -> None:
    assert singular(plural) == word


def test_mistakes_are_named() -> None:
    with pytest.raises(UsageError, match="needs a concept"):
        concept_frequency(["a"], [])
    with pytest.raises(UsageError, match="without a letter: '42'"):
        concept_frequency(["a"], ["42"])
    with pytest.raises(UsageError, match="no concept is named 'heron'"):
        concept_frequency(["a"], ["crane"], negatives={"heron": ["bird"]})
