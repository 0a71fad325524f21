"""Random variants of captions for training: function words left out, then one word replaced, moved or dropped."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float

from binderclip.data.augment.synonyms import STOP_WORDS, SYNONYMS
from binderclip.data.uniform import uniform
from binderclip.errors import UsageError

__all__ = ["TextAugment"]

_DRAWS = 5  # numbers in [0, 1) a caption uses besides one for each of its words
_EDGES = re.compile(r"^\W+|\W+$")


@dataclass(frozen=True, kw_only=True)
class TextAugment:
    """A caption without its stop words, and with one small change: a synonym, two words swapped, or words deleted.

    What happens to a caption depends on (seed, its key, the epoch) and on its own words only. Nothing is ever left of
    a caption but some of it: where a step would take its last word, the step is left out.

    Args:
        stopword: probability that function words are taken out.
        synonym, swap, delete: probabilities of the three changes, of which at most one happens; the rest of 1 changes
            nothing. A synonym replaces one word that has some; a swap exchanges two words; a deletion drops each word
            with probability `drop`.
        drop: see `delete`.
        synonyms: word -> words that may stand for it, lower case; default a small table of our own.
        stop_words: lower case; default those of English.
        seed: any integer.

    Call it with `captions`, `keys` (as many strings) and the `epoch`; the result is a list of as many texts. Several
    variants of one caption come from keys of their own, such as `KEY/1`.

    The released code chooses one of the three changes by these weights, as here, where the paper reads as if each had
    its own chance; synonyms come from WordNet there.

    Raises:
        UsageError: a probability out of range, changes whose probabilities sum to more than 1, or other than one key a
            caption.

    Paper: Fini et al., "Improved baselines for vision-language pre-training", arXiv 2305.08675; the changes are those
    of EDA, arXiv 1901.11196.

    Examples:
        >>> augment = TextAugment(stopword=1.0, synonym=0.0, swap=0.0, delete=0.0)
        >>> augment(["a drawing of the moon"], ["moon.png"])
        ['drawing moon']
    """

    stopword: float = 0.8
    synonym: float = 0.4
    swap: float = 0.4
    delete: float = 0.2
    drop: float = 0.1
    synonyms: Mapping[str, Sequence[str]] = field(default_factory=lambda: SYNONYMS, repr=False)
    stop_words: frozenset[str] = field(default=STOP_WORDS, repr=False)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("stopword", "synonym", "swap", "delete", "drop"):
            if not 0 <= getattr(self, name) <= 1:
                raise UsageError(f"TextAugment: {name} is {getattr(self, name)}; it lies in [0, 1]")
        total = self.synonym + self.swap + self.delete
        if total > 1 + 1e-9:
            raise UsageError(
                f"TextAugment: at most one of synonym, swap and delete happens, so that they sum to at most 1, "
                f"got {total:g}"
            )
        empty = [word for word, others in self.synonyms.items() if isinstance(others, str) or not len(others)]
        if empty:
            raise UsageError(f"TextAugment: synonyms of {empty[0]!r} must be a list of at least one word")

    def __call__(self, captions: Sequence[str], keys: Sequence[str], epoch: int = 0) -> list[str]:
        if isinstance(captions, str) or len(keys) != len(captions):
            raise UsageError(f"TextAugment takes a list of captions and a key for each, got {len(keys)} keys")
        several = [caption.split() for caption in captions]
        if not several:
            return []
        # the numbers of a key do not depend on how many are drawn
        drawn = uniform(self.seed, [f"text/{key}" for key in keys], epoch, _DRAWS + max(map(len, several)))
        return [" ".join(self._variant(words, u)) for words, u in zip(several, drawn, strict=True)]

    def _variant(self, words: list[str], u: Float[np.ndarray, "k"]) -> list[str]:
        if u[0] < self.stopword:
            words = [word for word in words if _plain(word) not in self.stop_words] or words
        if u[1] < self.synonym:
            return self._replaced(words, float(u[2]), float(u[3]))
        if u[1] < self.synonym + self.swap:
            return _swapped(words, float(u[2]), float(u[3]))
        if u[1] < self.synonym + self.swap + self.delete:
            return [word for word, own in zip(words, u[_DRAWS:], strict=False) if own >= self.drop] or words
        return words

    def _replaced(self, words: list[str], which: float, by: float) -> list[str]:
        """One of the words that have synonyms, and one of those in its place; punctuation around it stays."""
        places = [place for place, word in enumerate(words) if _plain(word) in self.synonyms]
        if not places:
            return words
        place = places[int(which * len(places))]
        word, others = words[place], self.synonyms[_plain(words[place])]
        core = _EDGES.sub("", word)
        return [*words[:place], word.replace(core, others[int(by * len(others))], 1), *words[place + 1 :]]


def _plain(word: str) -> str:
    """Lower case, without punctuation around it."""
    return _EDGES.sub("", word).lower()


def _swapped(words: list[str], first: float, second: float) -> list[str]:
    """Two different places exchanged."""
    if len(words) < 2:
        return words
    one = int(first * len(words))
    other = (one + 1 + int(second * (len(words) - 1))) % len(words)
    words = list(words)
    words[one], words[other] = words[other], words[one]
    return words
