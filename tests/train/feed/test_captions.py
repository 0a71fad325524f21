"""Captions of a stage's length, through a real tokenizer."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from binderclip.errors import NotSupported, UsageError
from binderclip.models import load
from binderclip.train.feed.captions import caption_tokens

CAPTIONS = ["a red cat", "the big red cat quickly jumps over a lazy old dog"]


@pytest.fixture(scope="module")
def model() -> Any:
    return load("small")


def test_truncation_is_the_tokenizers_own_cut(model: Any) -> None:
    tokenize, shorten = caption_tokens(model, 6)
    assert shorten is None
    short, full = tokenize(CAPTIONS), model.tokenize(CAPTIONS)
    for row, caption in enumerate(CAPTIONS):
        end = int(full.position[row])
        words = full.ids[row, : min(end, 5)].tolist()
        assert short.ids[row].tolist()[: len(words)] == words, caption
        assert short.ids[row, short.position[row]] == full.ids[row, end]
    assert caption_tokens(model, None) == (model.tokenize, None)


def test_syntax_keeps_what_a_picture_shows(model: Any) -> None:
    tokenize, shorten = caption_tokens(model, 6, "syntax")
    assert shorten is None
    # start and end leave four words here, or five where there is no start
    room = 6 - int(model.tokenize([""]).mask.sum())
    kept = {4: "red cat old dog", 5: "big red cat old dog"}
    got, want = tokenize(CAPTIONS[1:]), model.tokenize([" ".join(sorted_words(CAPTIONS[1], room))])
    assert torch.equal(got.ids[0], want.ids[0, :6]), kept


def sorted_words(caption: str, room: int) -> list[str]:
    """Nouns, then adjectives, tagged by hand."""
    words = caption.split()
    order = [*(words.index(w) for w in ("cat", "dog")), *(words.index(w) for w in ("big", "red", "lazy", "old"))]
    return [words[i] for i in sorted(order[:room])]


def test_random_captions_are_cut_for_every_pass(model: Any) -> None:
    tokenize, shorten = caption_tokens(model, 6, "random", seed=1)
    assert shorten is not None
    tokens = tokenize(CAPTIONS)
    assert torch.equal(tokens.ids, model.tokenize(CAPTIONS).ids)
    passes = [shorten(tokens, ["a", "b"], epoch).ids for epoch in range(4)]
    assert all(ids.shape == (2, 6) for ids in passes)
    assert not all(torch.equal(ids[1], passes[0][1]) for ids in passes)
    # the short one has nothing to lose
    if int(tokens.mask[0].sum()) <= 6:
        assert all(torch.equal(ids[0], passes[0][0]) for ids in passes)


def test_what_cannot_be_done(model: Any) -> None:
    full = model.tokenize([""]).ids.shape[1]
    with pytest.raises(UsageError, match=f"context of {full}"):
        caption_tokens(model, full + 1)
    with pytest.raises(UsageError, match="no room for a word"):
        caption_tokens(model, 1)

    class Other:
        backbone = object()
        tokenize = staticmethod(model.tokenize)

    with pytest.raises(NotSupported, match="always takes"):
        caption_tokens(Other(), 6)  # type: ignore[arg-type]
