"""Which places of a batch of sentences hold words, for layers that must not take padding for more of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jaxtyping import Bool
from torch import Tensor

__all__ = ["of_words", "words_inside"]

_WORDS: ContextVar[Tensor | None] = ContextVar("words", default=None)


@contextmanager
def of_words(mask: Bool[Tensor, "B L"]) -> Iterator[None]:
    """Tell the layers inside which places hold words (True)."""
    token = _WORDS.set(mask)
    try:
        yield
    finally:
        _WORDS.reset(token)


def words_inside() -> Bool[Tensor, "B L"] | None:
    """The mask of the innermost `of_words`, or None."""
    return _WORDS.get()
