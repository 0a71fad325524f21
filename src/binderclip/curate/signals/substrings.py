"""Which entries of a list of concepts a text names, by an automaton: the matching of MetaCLIP (p150)."""

from __future__ import annotations

import hashlib
import string
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

from binderclip.curate.engine.columns import ColumnValues, RaggedColumn
from binderclip.curate.engine.shard import Shard
from binderclip.curate.signals.plain import texts_of
from binderclip.errors import UsageError

_WRAPPED = str.maketrans({**{sign: f" {sign} " for sign in ",.;:?!`"}, **dict.fromkeys("\t\n\r", " ")})


def spaced(text: str) -> str:
    """A text between spaces, with spaces around `, . ; : ? ! ``, so that words are found as " word "."""
    return f" {text} ".translate(_WRAPPED)


class SubstringMatcher:
    """Which entries stand in a text as whole words: entry i matches where " entry " is in the spaced text.

    Of "Demystifying CLIP Data" (arXiv 2309.16671). Every entry counts once a text, however often it stands there.
    Other signs (quotes, slashes, hyphens, brackets) are not split from words. As a signal it gives a column of the
    numbers of the matched entries of all captions of a sample, caption after caption.

    Args:
        entries: concepts, no two of them alike.
        lower: ignore case; the released code does not.
        name: of the column; "" makes one of `version`, so that matchers of different lists never share a column.

    Raises:
        UsageError: no entry, an empty one, or one that stands there twice.

    Examples:
        >>> SubstringMatcher(["dog", "red dog", "cat"]).match("A red dog, no cats.")
        [0, 1]
    """

    needs: tuple[str, ...] = ("texts",)

    def __init__(self, entries: Sequence[str], *, lower: bool = False, name: str = "") -> None:
        self.entries, self.lower = list(entries), lower
        empty = [number for number, entry in enumerate(self.entries) if not isinstance(entry, str) or not entry.strip()]
        if not self.entries or empty:
            raise UsageError(f"entry {empty[0]} is empty" if empty else "a list of concepts needs at least one entry")
        if len(set(self.entries)) != len(self.entries):
            twice = Counter(self.entries).most_common(1)[0][0]
            raise UsageError(f"the entry {twice!r} stands in the list twice")
        self.name = name or f"entries of {self.version}"

    def __len__(self) -> int:
        return len(self.entries)

    @cached_property
    def version(self) -> str:
        """Hash of entries and case."""
        facts = repr((self.entries, self.lower)).encode("utf-8", "backslashreplace")
        return hashlib.blake2b(facts, digest_size=12).hexdigest()

    @cached_property
    def _automaton(self) -> Any:
        import ahocorasick

        owners: dict[str, list[int]] = {}
        for number, entry in enumerate(self.entries):
            owners.setdefault(f" {entry.lower() if self.lower else entry} ", []).append(number)
        automaton = ahocorasick.Automaton()
        for key, numbers in owners.items():
            automaton.add_word(key, numbers)
        automaton.make_automaton()
        return automaton

    def match(self, text: str) -> list[int]:
        """Numbers of the entries in a text, rising."""
        matches = self._automaton.iter(spaced(text.lower() if self.lower else text))
        return sorted({number for _, numbers in matches for number in numbers})

    def __call__(self, shard: Shard) -> ColumnValues:
        """Entries of all captions of each sample."""
        several = shard.columns["texts"]
        texts = several if isinstance(several, list) else [[text] for text in texts_of(shard, "text")]
        return RaggedColumn.of([[number for text in own for number in self.match(text)] for own in texts])


def build_metadata(
    sources: Sequence[Mapping[str, float] | Iterable[str]],
    *,
    minimum: float | Sequence[float] = 1,
    numbers: bool = True,
) -> list[str]:
    """Make a list of concepts out of several sources, as the paper makes its 500,000 entries.

    The paper's sources, with their minima: names of WordNet's synsets; words of Wikipedia that occur 100 times or more;
    pairs of words with a pointwise mutual information of 30 or more; titles of articles viewed 70 times or more.

    Args:
        sources: entry -> value, or texts whose value is how often they occur; their order is the entries' order.
        minimum: smallest value of an entry; one for all sources, or one each.
        numbers: put "0" to "99" in front, as the released list has them.

    Returns:
        Distinct entries without those that are punctuation alone.

    Raises:
        UsageError: minima and sources differ in number.
    """
    minima = [float(minimum)] * len(sources) if isinstance(minimum, (int, float)) else [float(m) for m in minimum]
    if len(minima) != len(sources):
        raise UsageError(f"{len(sources)} sources, but {len(minima)} minima")
    entries = dict.fromkeys(map(str, range(100))) if numbers else {}
    for source, least in zip(sources, minima, strict=True):
        values = dict(source) if isinstance(source, Mapping) else _counted(source)
        entries |= dict.fromkeys(
            entry for raw, value in values.items() if value >= least and (entry := " ".join(raw.split()))
        )
    return [entry for entry in entries if not set(entry) <= set(string.punctuation + " ")]


def _counted(texts: Iterable[str]) -> dict[str, float]:
    counts: dict[str, float] = {}
    for text in texts:
        counts[text] = counts.get(text, 0) + 1
    return counts
