"""Captions with an object too many or too few."""

from __future__ import annotations

import numpy as np
import pytest

from binderclip.data import ObjectStatistics, hallucinated_captions
from binderclip.errors import UsageError

ABSENT = {
    "adversarial": ["tree", "car", "house"],
    "popular": ["apple", "tree", "moon"],
    "random": ["moon", "car", "star"],
}


def test_every_caption_by_hand() -> None:
    found = hallucinated_captions("a cat and a dog", ["cat", "dog"], ABSENT)
    assert len(found.captions) == len(found.valid) == len(found.kinds) == len(found.changed) == 27
    assert found.captions[:7] == [
        "a cat, a dog and a tree",
        "a cat, a dog and a car",
        "a cat, a dog and a house",
        "a cat, a dog, a tree and a car",
        "a cat, a dog, a tree and a house",
        "a cat, a dog, a car and a house",
        "a cat, a dog, a tree, a car and a house",
    ]
    assert found.captions[7] == "a cat, a dog and an apple"
    assert found.kinds == ["adversarial"] * 7 + ["popular"] * 7 + ["random"] * 7 + ["deletion"] * 6
    assert found.changed[:7] == [1, 1, 1, 2, 2, 2, 3]
    # two objects: two captions with one taken away; nothing is left without both
    assert found.captions[21:] == ["a dog", "a cat", "###", "###", "###", "###"]
    assert found.valid == [True] * 23 + [False] * 4


def test_deletions_of_three_objects_and_of_longer_phrases() -> None:
    found = hallucinated_captions("a red cat, two dogs and a big old boat", ["cat", "dog", "boat"], ABSENT)
    assert found.captions[21:] == [
        "two dogs and a big old boat",
        "a red cat and a big old boat",
        "a red cat and two dogs",
        "a big old boat",
        "two dogs",
        "a red cat",
    ]
    assert all(found.valid)


def test_a_caption_that_names_nothing_has_no_deletions() -> None:
    found = hallucinated_captions("A sunny day on the beach.", ["cat"], ABSENT)
    assert found.captions[0] == "A sunny day on the beach and a tree"
    assert found.captions[3] == "A sunny day on the beach, a tree and a car"
    assert found.captions[21:] == ["###"] * 6
    assert not any(found.valid[21:])


def test_absent_objects_by_company_and_by_number() -> None:
    scenes = [["cat", "fish"]] * 5 + [["dog", "bone"]] * 3 + [["car"]] * 9 + [["tree", "cat"]] * 2 + [["sun"]]
    statistics = ObjectStatistics(scenes)
    found = statistics.absent(["cat"], np.random.default_rng(0), each=2)
    assert found["adversarial"] == ["fish", "tree"]
    assert found["popular"] == ["car", "fish"]
    assert len(set(found["random"])) == 2
    drawn = {name for seed in range(40) for name in statistics.absent(["cat"], np.random.default_rng(seed))["random"]}
    assert drawn == {"fish", "dog", "bone", "car", "tree", "sun"}


def test_words_for_the_same_thing_are_not_absent() -> None:
    statistics = ObjectStatistics([["cat"], ["kitten"], ["dog"], ["car"], ["sun"]], {"cat": ["kitten"]})
    assert set(statistics.absent(["cat"], np.random.default_rng(0))["popular"]) == {"dog", "car", "sun"}
    with pytest.raises(UsageError, match="1 objects are absent of 5 known ones: at least 3 needed"):
        statistics.absent(["cat", "dog", "car"], np.random.default_rng(0))


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(UsageError, match="3 different objects for each"):
        hallucinated_captions("a cat", ["cat"], {"random": ["dog", "car", "sun"]})
    with pytest.raises(UsageError, match="'moon' is in the picture"):
        hallucinated_captions("a moon", ["moon"], ABSENT)
