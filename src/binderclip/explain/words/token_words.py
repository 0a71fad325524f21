"""Which tokens of a tokenised caption make which of its words, for any tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from binderclip.errors import NotSupported, UsageError


@dataclass(frozen=True)
class Word:
    """A word of a caption, as white space separates them.

    Attributes:
        text: as it was written.
        start, stop: its tokens in the tower's sequence; equal where the tokenizer drops the word (a lone dash).
        lost: the caption was cut before the end of this word, so the model did not see all of it.
    """

    text: str
    start: int
    stop: int
    lost: bool = False

    @property
    def seen(self) -> bool:
        """Whether the model saw the whole word."""
        return not self.lost and self.stop > self.start


def words_of_tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[Word]]:
    """The words of each text with their places among its tokens.

    Every word is tokenised alone, which gives the tokens it has in the text wherever the tokenizer splits at white
    space; that they line up is checked, not assumed.

    Args:
        tokenizer: of an `ImageTextModel`.
        texts: captions.

    Raises:
        UsageError: a text without words.
        NotSupported: a tokenizer whose tokens reach across white space.
    """
    split = [text.split() for text in texts]
    for text, words in zip(texts, split, strict=True):
        if not words:
            raise UsageError(f"the text {text!r} has no words")
    vocabulary = list(dict.fromkeys(word for words in split for word in words))
    empty, *tokens = _real(tokenizer, ["", *vocabulary, *texts])
    lead, tail = _ends(empty, tokens)
    pieces = dict(zip(vocabulary, (row[lead : len(row) - tail] for row in tokens), strict=False))
    whole = [row[lead : len(row) - tail] for row in tokens[len(vocabulary) :]]
    return [_aligned(words, [pieces[w] for w in words], body, lead) for words, body in zip(split, whole, strict=True)]


def _real(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    ids, mask, _ = tokenizer.encode(texts)
    return [_row(row, keep) for row, keep in zip(ids, mask, strict=True)]


def _row(ids: Tensor, mask: Tensor) -> list[int]:
    return ids[mask.bool()].tolist()


def _ends(empty: list[int], rows: Sequence[list[int]]) -> tuple[int, int]:
    """How many special tokens stand before and after the words: what an empty text shares with all others."""
    lead = 0
    while lead < len(empty) and all(row[lead] == empty[lead] for row in rows):
        lead += 1
    return lead, len(empty) - lead


def _aligned(words: list[str], pieces: list[list[int]], body: list[int], lead: int) -> list[Word]:
    joined = [token for piece in pieces for token in piece]
    # Where the text was cut, the end token took the place of what came last.
    if joined[: len(body)] != body:
        raise NotSupported(
            f"the tokens of {' '.join(words)[:60]!r} are not those of its words one by one: this tokenizer reaches "
            "across white space, so scores of words cannot be told"
        )
    aligned, place = [], 0
    for word, piece in zip(words, pieces, strict=True):
        aligned.append(Word(word, lead + place, lead + place + len(piece), lost=place + len(piece) > len(body)))
        place += len(piece)
    return aligned
