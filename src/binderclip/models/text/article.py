"""The indefinite article of a name, by how its first word sounds: a cat, an elephant, a unicorn, an hour."""

from __future__ import annotations

import re

_DETERMINERS = frozenset(
    [
        "a",
        "an",
        "the",
        "my",
        "your",
        "his",
        "her",
        "its",
        "our",
        "their",
        "this",
        "that",
        "these",
        "those",
        "some",
        "any",
        "many",
        "several",
        "no",
        "one",
        "two",
        "three",
        "four",
        "five",
    ]
)
# Vowels that are spoken as "you" or "won", and an h that is not spoken.
_CONSONANT_SOUND = re.compile(r"(uni(?!n|m)|us[aeu]|uten|uto|uku|ubi|ur[aei]|eu|ewe|one\b|once)")
_SILENT_H = re.compile(r"(hour|honest|honou?r|heir)")
_LETTERS_WITH_A_VOWEL_FIRST = frozenset("aefhilmnorsx")


def with_article(name: str) -> str:
    """`name` with "a" or "an" before it; a name that begins with an article or the like stays as it is.

    Examples:
        >>> [with_article(name) for name in ("cat", "elephant", "unicorn", "SUV", "the moon", "a dog")]
        ['a cat', 'an elephant', 'a unicorn', 'an SUV', 'the moon', 'a dog']
    """
    bare = name.strip().lstrip("\"'")
    first = re.match(r"[^\W_]+", bare)
    if first is None:
        return f"a {name}"
    word = first.group()
    if word.casefold() in _DETERMINERS and bare[len(word) : len(word) + 1].isspace():
        return name
    return f"{'an' if _vowel_sound(word, bare) else 'a'} {name}"


def _vowel_sound(word: str, name: str) -> bool:
    low = word.casefold()
    if low.isdigit():
        return low[0] == "8" or low in ("11", "18")
    spelt = (word.isupper() and len(word) <= 3) or (len(word) == 1 and name[1:2] == "-")
    if spelt or len(word) == 1:
        return low[0] in _LETTERS_WITH_A_VOWEL_FIRST
    if low[0] == "h":
        return _SILENT_H.match(low) is not None
    return low[0] in "aeiou" and _CONSONANT_SOUND.match(low) is None
