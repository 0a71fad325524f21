"""The lexicon against captions tagged by hand."""

from __future__ import annotations

import pytest

from binderclip.train.tokens.word_classes import ADJECTIVE, NOUN, OTHER, VERB, split_words, word_classes

TAGGED = [
    ("a smiling girl is holding two big balloons", [OTHER, VERB, NOUN, VERB, VERB, OTHER, ADJECTIVE, NOUN]),
    ("flag of the United Kingdom", [NOUN, OTHER, OTHER, VERB, NOUN]),
    ("building with a colorful painting", [NOUN, OTHER, OTHER, ADJECTIVE, NOUN]),
    ("butterfly, slowly", [NOUN, OTHER, OTHER]),
    ("he plays; a play", [OTHER, VERB, OTHER, OTHER, NOUN]),
    ("delicious edible fish on a bed", [ADJECTIVE, ADJECTIVE, NOUN, OTHER, OTHER, NOUN]),
    ("3 dogs & a mother-in-law", [OTHER, NOUN, OTHER, OTHER, NOUN]),
]


@pytest.mark.parametrize(("caption", "classes"), TAGGED, ids=[caption for caption, _ in TAGGED])
def test_captions_tagged_by_hand(caption: str, classes: list[int]) -> None:
    assert word_classes(split_words(caption)) == classes


def test_case_does_not_matter_and_marks_are_words() -> None:
    assert split_words("It's red-hot, no?") == ["It's", "red-hot", ",", "no", "?"]
    assert word_classes(["RED", "Cat"]) == word_classes(["red", "cat"]) == [ADJECTIVE, NOUN]
    assert word_classes([]) == []
