"""Captions to tokens of the length that a stage trains with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from binderclip.data import TextAugment
from binderclip.errors import NotSupported, UsageError
from binderclip.models import ImageTextModel, TokenIds
from binderclip.train.feed.batches import FurtherTexts, Shorten
from binderclip.train.tokens.text import TextKind, TextReduction

__all__ = ["MakeTexts", "augmented_texts", "caption_tokens", "further_texts"]

MakeTexts = Callable[[Sequence[str], Sequence[str], int], Sequence[Sequence[str]]]
"""Further texts as words: (captions, keys, epoch) -> lists of a text for each picture."""


def caption_tokens(
    model: ImageTextModel, length: int | None, kind: TextKind = "truncate", *, seed: int = 0
) -> tuple[Callable[[Sequence[str]], TokenIds], Shorten | None]:
    """What makes tokens of captions, and what cuts a batch of them where each pass cuts differently.

    Shorter captions train faster (CLIPA, arXiv 2305.07017). Where every pass cuts alike, the tokens are short already
    and there is nothing to do for a batch.

    Args:
        model: whose tokenizer it is.
        length: tokens of a caption, start and end included; None is the model's own context.
        kind: which tokens of a longer caption are kept, see `TextReduction`.
        seed: of the draws.

    Raises:
        UsageError: a length that leaves no room for a word, or is more than the model's context.
        NotSupported: a text tower that takes its full context only.
    """
    empty = model.tokenize([""])
    start = max(0, int(empty.mask.sum()) - 1)
    if length is None or not _is_shorter(model, length, empty.ids.shape[1], start):
        return model.tokenize, None
    reduction = TextReduction(kind, seed=seed)

    def shorten(tokens: TokenIds, keys: Sequence[str], epoch: int) -> TokenIds:
        return reduction(tokens, length, keys, epoch=epoch, start=start)

    def tokenize(captions: Sequence[str]) -> TokenIds:
        words = [reduction.words(caption, length - start - 1) for caption in captions]
        tokens = model.tokenize(words)
        return tokens if reduction.random else shorten(tokens, words, 0)

    return tokenize, shorten if reduction.random else None


def _is_shorter(model: ImageTextModel, length: int, full: int, start: int) -> bool:
    if length > full:
        raise UsageError(f"text_length {length} is more than the model's context of {full} tokens")
    if length < start + 2:
        raise UsageError(f"text_length {length} leaves no room for a word: at least {start + 2}")
    if length == full:
        return False
    text = getattr(model.backbone, "text", None)
    if text is None or not hasattr(text, "positional_embedding"):
        raise NotSupported(f"text_length: this model's text tower always takes {full} tokens; leave text_length out")
    return True


def augmented_texts(
    augment: TextAugment, count: int, tokenize: Callable[[Sequence[str]], TokenIds], shorten: Shorten | None = None
) -> FurtherTexts:
    """What makes tokens of `count` random variants of each caption of a batch.

    Args:
        augment: changes captions.
        count: variants a caption; each has draws of its own.
        tokenize, shorten: of `caption_tokens`.
    """

    def texts(captions: Sequence[str], keys: Sequence[str], epoch: int) -> list[TokenIds]:
        made = []
        for number in range(count):
            own = [f"{key}/{number}" for key in keys]
            tokens = tokenize(augment(captions, own, epoch))
            made.append(tokens if shorten is None else shorten(tokens, own, epoch))
        return made

    return texts


def further_texts(
    make: MakeTexts, tokenize: Callable[[Sequence[str]], TokenIds], shorten: Shorten | None = None
) -> FurtherTexts:
    """What makes tokens of further texts of a batch.

    Args:
        make: gives the texts.
        tokenize, shorten: of `caption_tokens`.
    """

    def texts(captions: Sequence[str], keys: Sequence[str], epoch: int) -> list[TokenIds]:
        made = [tokenize(list(each)) for each in make(captions, keys, epoch)]
        if shorten is None:
            return made
        return [shorten(tokens, [f"{key}/{number}" for key in keys], epoch) for number, tokens in enumerate(made)]

    return texts
