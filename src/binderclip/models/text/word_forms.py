"""Singulars and plurals of English words, by spelling."""

from __future__ import annotations

from functools import lru_cache

__all__ = ["plain_forms", "word_forms"]

_IRREGULAR = {
    "calf": "calves", "child": "children", "die": "dice", "elf": "elves", "foot": "feet", "goose": "geese",
    "half": "halves", "hoof": "hooves", "knife": "knives", "leaf": "leaves", "life": "lives", "loaf": "loaves",
    "louse": "lice", "mouse": "mice", "ox": "oxen", "person": "people", "scarf": "scarves", "sheaf": "sheaves",
    "shelf": "shelves", "thief": "thieves", "tooth": "teeth", "wife": "wives", "wolf": "wolves",
}  # fmt: skip
_NOT_PLURAL = {
    "alias", "always", "asbestos", "atlas", "bias", "canvas", "chaos", "christmas", "cosmos", "gas", "has", "its",
    "lens", "mathematics", "news", "pancreas", "perhaps", "physics", "pajamas", "pyjamas", "rhinoceros", "series",
    "species", "texas", "was", "yes",
}  # fmt: skip
"""Words whose last s is their own, beside nearly all in -ss, -us and -is."""
_PLURAL_IN_US_OR_IS = {
    "alibis", "bikinis", "corgis", "emus", "gnus", "kiwis", "menus", "safaris", "skis", "taxis", "tutus", "yetis",
}  # fmt: skip
_NO_MAN = {"caiman", "german", "human", "ottoman", "roman", "shaman", "talisman"}


def word_forms(word: str) -> frozenset[str]:
    """The word, the plurals that it may have and the singulars that it may be the plural of, by English spelling.

    Two words mean one thing where one is a form of the other. That is no guess at the singular, which an ending does
    not settle ("shoes" and "potatoes", "buses" and "houses"), and it is no equivalence: "axes" is a form of both "axe"
    and "axis", which are none of each other.

    Args:
        word: in small letters.

    Returns:
        Forms that no dictionary has may be among them ("hous" for "houses"), which hardly a text has either.

    Examples:
        >>> ["bus" in word_forms("buses"), "cookies" in word_forms("cookie"), "lens" in word_forms("len")]
        [True, True, False]
    """
    ends = [(1, ""), (2, ""), (3, ""), (3, "y"), (3, "f"), (3, "fe"), (2, "is"), (1, "us"), (3, "man")]
    guesses = {word[: len(word) - cut] + end for cut, end in ends if len(word) >= cut}
    guesses |= {one for one, many in _IRREGULAR.items() if many == word}
    return frozenset({word} | _plurals(word) | {guess for guess in guesses if word in _plurals(guess)})


def plain_forms(text: str) -> list[str]:
    """A text in small letters, without an article in front and with single spaces, then its other `word_forms`."""
    plain = " ".join(text.lower().split())
    for article in ("a ", "an ", "the "):
        plain = plain.removeprefix(article)
    return [plain, *sorted(word_forms(plain) - {plain})]


@lru_cache(maxsize=65_536)
def _plurals(word: str) -> frozenset[str]:
    """Plurals that a word may have; none of a word of one letter."""
    if len(word) < 2:
        return frozenset()
    plurals = {_IRREGULAR[word]} if word in _IRREGULAR else set()
    before = word[-2] not in "aeiou"
    if word.endswith(("s", "x", "z", "ch", "sh")):
        plurals.add(word + "es")
        plurals |= {word + word[-1] + "es"} if word in ("quiz", "whiz", "gas", "bus") else set()
    elif word.endswith("y") and before:
        plurals.add(word[:-1] + "ies")
    else:
        plurals.add(word + "s")
    if word.endswith("o") and before:
        plurals.add(word + "es")
    for singular, plural in (("is", "es"), ("us", "i"), ("man", "men")):
        if word.endswith(singular) and word not in _NO_MAN and len(word) >= (3 if singular == "man" else 4):
            plurals.add(word[: -len(singular)] + plural)
    return frozenset(form for form in plurals - {word} if not _is_singular(form))


def _is_singular(form: str) -> bool:
    own = form.endswith(("ss", "us", "is")) and form not in _PLURAL_IN_US_OR_IS
    return own or form in _NOT_PLURAL
