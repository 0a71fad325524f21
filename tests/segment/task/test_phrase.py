"""What sentences name, by sentences."""

from __future__ import annotations

import pytest

from binderclip.errors import UsageError
from binderclip.segment.task import bundled_words, meant_words, noun_phrases


@pytest.mark.parametrize(
    ("task", "named"),
    [
        ("The camouflaged Animal", ["camouflaged animal"]),
        ("every fire truck", ["fire truck"]),
        ("the shadow of the tree", ["shadow"]),
        ("all of the owls", ["owls"]),
        ("the cup on the table", ["cup"]),
        ("the animal that hides in the grass", ["animal"]),
        ("the man riding a horse", ["man"]),
        ("the tall building in the city", ["tall building"]),
        ("owls, foxes and the red car", ["owls", "foxes", "red car"]),
        ("a jack-o'-lantern.", ["jack-o'-lantern"]),
    ],
)
def test_a_sentence_names_things(task: str, named: list[str]) -> None:
    assert [" ".join(phrase.words) for phrase in noun_phrases(task)] == named


@pytest.mark.parametrize("task", ["the", "every", ", and", "of the", "!"])
def test_a_sentence_that_names_nothing_is_refused(task: str) -> None:
    for reads in (noun_phrases, bundled_words, lambda task: meant_words(task, ["owl"])):
        with pytest.raises(UsageError, match="names nothing"):
            reads(task)


@pytest.mark.parametrize(
    ("task", "vocabulary", "meant"),
    [
        ("the flower", "dog,flower", "flower"),
        ("all foxes", "fox,owl", "fox"),
        ("every fire truck", "truck,fire truck,tree", "fire truck"),
        ("every fire truck", "truck,tree", "truck"),
        ("every truck", "truck,fire truck", "truck"),
        ("the shadow of the tree", "tree,shadow", "shadow"),
        ("the shadow of the tree", "tree,house", "tree,house"),  # names none of them: any may be meant
        ("owls and the red car", "owl,fox,car", "owl,car"),
        ("the hidden animal", "owl,tulip,Fox,palm tree", "owl,Fox"),
        ("every bird", "bird,owl,dog", "bird,owl"),
        ("all vehicles", "taxi,tree,bus", "taxi,bus"),
        ("the hidden object", "owl,tulip", "owl,tulip"),
        ("the predator", "owl,tulip", "owl,tulip"),
    ],
)
def test_which_words_a_sentence_means(task: str, vocabulary: str, meant: str) -> None:
    assert meant_words(task, vocabulary.split(",")) == tuple(meant.split(","))


def test_the_bundled_vocabulary_follows_the_sentence() -> None:
    assert "owl" in bundled_words("every hidden bird")
    assert "dog" not in bundled_words("the hidden birds")
    assert {"owl", "car"} < set(bundled_words("birds and vehicles"))
    for task, word in (
        ("the flower", "flower"), ("every fire truck", "fire truck"), ("the gizmo", "gizmo"),
        ("the shadow of the tree", "shadow"), ("the hidden owl", "owl"), ("a red ball", "red ball"),
    ):  # fmt: skip
        words = bundled_words(task)
        assert meant_words(task, words) == (word,)
        assert len(words) > 100  # what probabilities are held against
    assert "truck" not in bundled_words("every fire truck")  # would compete for the same thing
