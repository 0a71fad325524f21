"""Which places of the texts that are being encoded hold words: for layers that treat tokens one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jaxtyping import Bool
from torch import Tensor

__all__ = ["of_words", "places_of_words"]

_PLACES: ContextVar[Tensor | None] = ContextVar("places", default=None)


@contextmanager
def of_words(mask: Bool[Tensor, "B L"]) -> Iterator[None]:
    """Tell the layers inside which places hold words; the others are padding.

    Args:
        mask: true where there is a word.
    """
    token = _PLACES.set(mask)
    try:
        yield
    finally:
        _PLACES.reset(token)


def places_of_words() -> Bool[Tensor, "B L"] | None:
    """The mask of `of_words`; None outside it, and for pictures."""
    return _PLACES.get()
