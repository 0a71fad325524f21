"""What a task says: the things that it names, the words before and after them, and what else may stand for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from binderclip.errors import UsageError
from binderclip.models.text.word_forms import word_forms

__all__ = ["NounPhrase", "noun_phrases", "same_words", "variants"]

_DETERMINERS = frozenset([
    "the", "a", "an", "every", "all", "any", "each", "some", "both", "this", "that", "these", "those", "my", "your",
    "his", "her", "its", "our", "their", "one", "no",
])  # fmt: skip
_PREPOSITIONS = frozenset([
    "of", "in", "on", "at", "by", "with", "without", "under", "over", "above", "below", "behind", "before", "beside",
    "besides", "between", "among", "near", "next", "from", "to", "into", "onto", "inside", "outside", "around",
    "along", "across", "through", "against", "for", "like", "upon", "within",
])  # fmt: skip
_CLAUSES = frozenset([
    "that", "which", "who", "whose", "where", "when", "while", "is", "are", "was", "were", "being", "as",
])  # fmt: skip
_CONJUNCTIONS = frozenset(["and", "or", ",", ";", "&"])


@dataclass(frozen=True)
class NounPhrase:
    """A thing that a task names.

    Attributes:
        words: adjectives and noun in small letters, ("small", "owl") of "the small owl on a branch".
        rest: what follows, "on a branch"; "" for nothing.
    """

    words: tuple[str, ...]
    rest: str = ""

    @property
    def noun(self) -> str:
        """The last word."""
        return self.words[-1]


def noun_phrases(task: str) -> tuple[NounPhrase, ...]:
    """The things that a task names, without articles: each ends before a preposition or a clause.

    No parser: "the man riding a horse" names the man because an article follows, "the shadow of the tree" the shadow
    because of "of", "owls and foxes" both.

    Args:
        task: such as "every fire truck".

    Raises:
        UsageError: it names nothing.

    Examples:
        >>> [phrase.words for phrase in noun_phrases("the shadow of the tree and every fire truck")]
        [('shadow',), ('fire', 'truck')]
    """
    tokens = re.findall(r"[^\W_]+(?:['’-]+[^\W_]+)*|[,;&]", task.lower())
    phrases = []
    for part in _split(tokens):
        while part and part[0] in _DETERMINERS | {"of"}:  # "all of the owls"
            part = part[1:]
        stops = _DETERMINERS | _PREPOSITIONS | _CLAUSES
        end = next((i for i, word in enumerate(part) if word in stops), len(part))
        words = part[:end]
        # What has an object of its own is a verb: "the man riding a horse".
        if end < len(part) and part[end] in _DETERMINERS and len(words) > 1 and words[-1].endswith("ing"):
            end, words = end - 1, words[:-1]
        if words:
            phrases.append(NounPhrase(tuple(words), " ".join(part[end:])))
    if not phrases:
        raise UsageError(f"task {task!r} names nothing: say what is wanted, such as 'the hidden animal'")
    return tuple(phrases)


def _split(tokens: Sequence[str]) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token in _CONJUNCTIONS:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def same_words(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether two names are one but for the number of their last words: "fire truck" and "fire trucks"."""
    if len(one) != len(other) or not one:
        return False
    return tuple(one[:-1]) == tuple(other[:-1]) and (one[-1] == other[-1] or one[-1] in word_forms(other[-1]))


def variants(task: str, synonyms: Sequence[str]) -> list[str]:
    """A task without its leading article, once for each word that may stand in the place of one that it has.

    Args:
        task: in words.
        synonyms: words that mean the same. Where the task has none of them it stays as it is.

    Raises:
        UsageError: the task names nothing.

    Examples:
        >>> variants("the hidden animal", ("camouflaged", "hidden"))
        ['camouflaged animal', 'hidden animal']
        >>> variants("the shadow of the tree", ("camouflaged", "hidden"))
        ['shadow of the tree']
    """
    noun_phrases(task)
    words = task.strip().strip(".!?").split()
    while len(words) > 1 and words[0].lower() in _DETERMINERS:
        words = words[1:]
    known = {synonym.lower() for synonym in synonyms}
    place = next((i for i, word in enumerate(words) if word.lower() in known), None)
    if place is None:
        return [" ".join(words)]
    return [" ".join([*words[:place], synonym, *words[place + 1 :]]) for synonym in dict.fromkeys(synonyms)]
