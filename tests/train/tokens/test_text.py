"""Shortened captions, against open_clip's own reductions and by brute force."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from binderclip.errors import UsageError
from binderclip.models import TokenIds
from binderclip.train.tokens.text import TextKind, TextReduction

START, END = 90, 91


def captions(lengths: list[int], full: int = 12) -> TokenIds:
    """Captions of so many words 1, 2, 3, ..., with start and end tokens and padding 0; pooled at the end."""
    ids = torch.zeros(len(lengths), full, dtype=torch.long)
    for row, n in enumerate(lengths):
        ids[row, : n + 2] = torch.tensor([START, *range(1, n + 1), END])
    real = torch.tensor(lengths) + 2
    return TokenIds(ids, torch.arange(full) < real[:, None], real - 1)


@given(
    st.lists(st.integers(0, 10), min_size=1, max_size=6), st.integers(3, 12),
    st.sampled_from(["truncate", "random", "block"]), st.integers(0, 3),
)  # fmt: skip
def test_what_is_left_is_a_caption(lengths: list[int], length: int, kind: TextKind, epoch: int) -> None:
    tokens = captions(lengths)
    short = TextReduction(kind, seed=1)(tokens, length, [str(i) for i in range(len(lengths))], epoch=epoch)
    assert short.ids.shape == short.mask.shape == (len(lengths), length)
    for row, n in enumerate(lengths):
        ids = short.ids[row].tolist()
        assert ids[0] == START
        assert ids[int(short.position[row])] == END
        words = [i for i in ids if 0 < i < START]
        assert words == sorted(set(words))
        assert len(words) == min(n, length - 2)
        assert int(short.mask[row].sum()) == len(words) + 2
        if kind == "truncate" or n <= length - 2:
            assert words == list(range(1, len(words) + 1))
        if kind == "block" and words:
            assert words == list(range(words[0], words[0] + len(words)))


def test_draws_are_even_and_those_of_the_pass() -> None:
    tokens, keys = captions([8] * 3000), [str(i) for i in range(3000)]
    for kind, places in (("random", 8), ("block", 5)):
        reduction = TextReduction(kind, seed=3)  # type: ignore[arg-type]
        first, again = (reduction(tokens, 6, keys).ids for _ in range(2))
        assert torch.equal(first, again)
        assert not torch.equal(first, reduction(tokens, 6, keys, epoch=1).ids)
        assert torch.equal(first[1:2], reduction(tokens[1:2], 6, keys[1:2]).ids)
        seen = (
            torch.bincount(first[:, 1:-1].flatten(), minlength=9)[1:]
            if kind == "random"
            else torch.bincount(first[:, 1])[1:]
        )
        # each word stays half the time, and each of the five starts is as likely
        want = 1500 if kind == "random" else 600
        assert len(seen) == places
        assert (seen - want).abs().max() < 4 * want**0.5


def test_other_places_of_the_pooled_token() -> None:
    tokens = captions([8, 2])
    for old, new in (([0, 0], [0, 0]), ([-1, -1], [-1, -1]), ([11, 11], [5, 5]), ([12, 12], [6, 6])):
        short = TextReduction("truncate")(TokenIds(tokens.ids, tokens.mask, torch.tensor(old)), 6, ["a", "b"])
        assert short.position.tolist() == new, old


def test_a_tokenizer_without_start_token() -> None:
    tokens = captions([8])
    bare = TokenIds(tokens.ids[:, 1:], tokens.mask[:, 1:], tokens.position - 1)
    assert TextReduction("truncate")(bare, 4, ["a"], start=0).ids.tolist() == [[1, 2, 3, END]]


def test_nouns_first_then_adjectives() -> None:
    syntax = TextReduction("syntax")
    assert syntax.words("the red cat quickly jumps over a lazy dog", 4) == "red cat lazy dog"
    assert syntax.words("the red cat quickly jumps over a lazy dog", 2) == "cat dog"
    assert syntax.words("the red cat quickly jumps over a lazy dog", 5) == "red cat jumps lazy dog"
    assert syntax.words("a red cat", 3) == "a red cat"
    assert TextReduction("truncate").words("the red cat runs", 2) == "the red cat runs"


def test_the_words_are_those_of_open_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same tags; open_clip's sort is not stable beyond 16 words, ours is."""
    tokenizer = pytest.importorskip("open_clip.tokenizer")
    tags = {"dogs": "NNS", "cat": "NN", "red": "JJ", "older": "JJR", "run": "VBP", "Anna": "NNP"}
    caption = "Anna saw the red cat and older dogs that run away from it"

    def pos_tag(words: list[str]) -> list[tuple[str, str]]:
        return [(word, tags.get(word, "IN")) for word in words]

    fake: Any = SimpleNamespace(
        tokenize=SimpleNamespace(word_tokenize=str.split), pos_tag=pos_tag, download=lambda name: None
    )
    monkeypatch.setitem(sys.modules, "nltk", fake)
    order = {"NN": 1, "JJ": 2, "VB": 3}
    ours = TextReduction("syntax", tagger=lambda words: [order.get(tag[:2], 4) for _, tag in pos_tag(list(words))])
    vocabulary: dict[str, int] = {}
    for length in (4, 6, 8, 11):
        theirs = tokenizer.syntax_mask_tokenize(
            [caption], length, START, END, lambda t: [vocabulary.setdefault(w, len(vocabulary) + 1) for w in t.split()]
        )
        names = {number: word for word, number in vocabulary.items()}
        words = [names[int(i)] for i in theirs[0] if 0 < int(i) < START]
        assert ours.words(caption, length - 2).split() == words


def test_bad_settings() -> None:
    with pytest.raises(UsageError, match="truncate, random, block, syntax"):
        TextReduction("nouns")  # type: ignore[arg-type]
    for length in (2, 13):
        with pytest.raises(UsageError, match="from 3 to the model's context of 12"):
            TextReduction()(captions([4]), length, ["a"])
