"""How many captions name each concept, by sets of words."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from jaxtyping import Int

from binderclip.errors import UsageError
from binderclip.models.text.word_forms import word_forms

__all__ = ["concept_frequency", "word_forms"]


def concept_frequency(
    captions: Iterable[str],
    concepts: Sequence[str | Sequence[str]],
    *,
    negatives: Mapping[str, Sequence[str]] | None = None,
    lemmatize: Callable[[str], str] | None = None,
) -> Int[np.ndarray, "C"]:
    """How many captions name each concept: those with all its words, in any order and place, and no word against it.

    Captions and names lose case and all but the letters a to z; a word of a name is found in its singular and plural
    (`word_forms`). `SubstringMatcher` instead finds names as they are written, word after word.

    Args:
        captions: texts.
        concepts: names. "sub or submarine" and "sub / submarine" are two names of one concept, what stands in brackets
            is left out; a list of names is taken as it is, but for brackets.
        negatives: name -> words with which a caption does not name the concept that has this name ("crane" with
            "bird").
        lemmatize: word -> its base form, instead of comparing forms. The official code's is
            `nltk.stem.WordNetLemmatizer().lemmatize`, which is not among our requirements.

    Returns:
        Captions that name each concept; what `SampledClassifier` takes as `freq`.

    Raises:
        UsageError: no concept, a name without a letter, or negatives of a name that no concept has.

    Examples:
        >>> captions = ["Two cranes at a harbour", "a crane, a wading bird", "A red tie", "bow-ties in red"]
        >>> concept_frequency(captions, ["crane", "red bow or red tie"], negatives={"crane": ["bird"]}).tolist()
        [1, 2]

    Paper: Wen et al., "Generalization Beyond Data Imbalance: A Controlled Study on CLIP for Transferable Insights",
    arXiv 2405.21070.
    """
    base = str if lemmatize is None else lru_cache(maxsize=65_536)(lemmatize)

    def words(text: str) -> frozenset[str]:
        return frozenset(base(word) for word in re.findall(r"[a-z]+", text.lower()))

    names = [_names(concept) for concept in concepts]
    against = {name.lower().strip(): frozenset().union(*map(words, own)) for name, own in (negatives or {}).items()}
    unknown = sorted(set(against) - {name for own in names for name in own})
    if not names or unknown:
        raise UsageError(f"no concept is named {unknown[0]!r}" if unknown else "concept_frequency needs a concept")
    by_word: dict[str, list[tuple[int, frozenset[str], frozenset[str]]]] = {}
    for number, own in enumerate(names):
        barred = frozenset[str]().union(*(against.get(name, frozenset()) for name in own))
        for name in own:
            needed = words(name)
            if not needed:
                raise UsageError(f"concept {number} has a name without a letter: {name!r}")
            by_word.setdefault(min(needed), []).append((number, needed, barred))
    asked = {word for entries in by_word.values() for _, needed, barred in entries for word in needed | barred}
    meant: dict[str, set[str]] = {}  # word of a caption -> words of names that it is a form of
    for word in asked:
        for form in word_forms(word) if lemmatize is None else (word,):
            meant.setdefault(form, set()).add(word)
    counts = np.zeros(len(names), np.int64)
    for caption in captions:
        concepts_of_caption = frozenset[str]().union(*(meant[word] for word in words(caption) if word in meant))
        candidates = (entry for word in concepts_of_caption for entry in by_word.get(word, ()))
        named = {
            number
            for number, needed, barred in candidates
            if needed <= concepts_of_caption and not barred & concepts_of_caption
        }
        counts[list(named)] += 1
    return counts


def _names(concept: str | Sequence[str]) -> list[str]:
    """The names of a concept in small letters, without brackets."""
    if isinstance(concept, str):
        return [name.strip() for name in re.split(r" or | / ", re.sub(r"\([^)]*\)", "", concept.lower()))]
    return [re.sub(r"\([^)]*\)", "", name.lower()).strip() for name in concept]
