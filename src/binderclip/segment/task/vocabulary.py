"""The bundled vocabulary, and which words of a vocabulary a task means."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from binderclip.documents import parse_toml
from binderclip.segment.task.phrase import NounPhrase, noun_phrases, same_words

__all__ = ["bundled_words", "meant_words", "modifiers_of"]

ANYTHING = "thing"
"""The kind that may be anything: with it a task leaves all words of a given vocabulary."""
CAMOUFLAGE = ("camouflaged", "disguised", "hidden", "concealed", "unseen")
"""Adjectives that say nothing about what a thing is."""


@lru_cache(maxsize=1)
def _table() -> dict[str, Any]:
    return parse_toml(files("binderclip.segment.task").joinpath("vocabulary.toml").read_text(encoding="utf-8"))


def _kind(noun: str) -> str | None:
    """The kind that a noun is the name of."""
    kinds, also = _table()["words"], _table()["also"]
    return next((key for key in kinds if same_words([noun], [key]) or noun in also.get(key, ())), None)


def bundled_words(task: str) -> tuple[str, ...]:
    """Words among which a task is looked for where no vocabulary is given.

    A task of a kind ("the hidden animal") gives the kind's words. Any other gives what it names ("every fire truck"),
    with all bundled words of other things beside it, against which probabilities can be held.

    Args:
        task: in words.

    Raises:
        UsageError: it names nothing.
    """
    words, phrases = _table()["words"], noun_phrases(task)
    kinds = [_kind(phrase.noun) for phrase in phrases]
    if None not in kinds:
        return tuple(dict.fromkeys(word for kind in kinds for word in words[kind]))
    every = tuple(dict.fromkeys(word for own in words.values() for word in own))
    named: list[str] = []
    for phrase in phrases:
        name = [word for word in phrase.words if word not in CAMOUFLAGE] or [phrase.noun]
        known = [word for word in every if same_words(word.split(), name)]
        named += known or [" ".join(name)]
        # "truck" beside "fire truck" would compete with it for the same thing.
        tails = [word for word in every if same_words(word.split(), name[-len(word.split()) :])]
        every = tuple(word for word in every if word in named or word not in tails)
    return tuple(dict.fromkeys([*named, *every]))


def meant_words(task: str, vocabulary: Sequence[str]) -> tuple[str, ...]:
    """Words of a vocabulary that a task may mean, in the vocabulary's order.

    Those that it names, by the longest name that fits ("every fire truck" is no truck where both are there), and those
    of a kind that it names ("the animal" is the dog, not the tulip). All of them where it names neither.

    Args:
        task: in words.
        vocabulary: to choose from.

    Raises:
        UsageError: the task names nothing.

    Examples:
        >>> meant_words("every fire truck", ["truck", "fire truck", "tree"])
        ('fire truck',)
        >>> meant_words("the hidden animal", ["dog", "tulip", "owl"])
        ('dog', 'owl')
    """
    meant: set[str] = set()
    for phrase in noun_phrases(task):
        meant.update(_named(phrase, vocabulary)[1])
        kind = _kind(phrase.noun)
        if kind is not None and kind != ANYTHING:
            meant.update(word for word in vocabulary if _bare(word) in map(str.split, _table()["words"][kind]))
    return tuple(word for word in vocabulary if word in meant) or tuple(vocabulary)


def modifiers_of(task: str, vocabulary: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """What a task says beside the thing: words before it ("camouflaged"), and what follows ("on a branch").

    Args:
        task: in words; of several things the first counts.
        vocabulary: a name in it of several words is not taken apart.

    Raises:
        UsageError: the task names nothing.
    """
    phrase = noun_phrases(task)[0]
    return phrase.words[: -_named(phrase, vocabulary)[0]], phrase.rest


def _named(phrase: NounPhrase, vocabulary: Sequence[str]) -> tuple[int, list[str]]:
    """How many of a phrase's last words are a name in the vocabulary, and which; 1 and none where they are not."""
    for length in range(len(phrase.words), 0, -1):
        if words := [word for word in vocabulary if same_words(_bare(word), phrase.words[-length:])]:
            return length, words
    return 1, []


def _bare(word: str) -> list[str]:
    """A word of a vocabulary in small letters, without its article."""
    return [part for part in word.lower().split() if part not in ("a", "an", "the")]
