"""Several things made together, of which one that cannot be made costs no other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeVar

from binderclip.errors import BinderclipError

__all__ = ["results_or_errors"]

T = TypeVar("T")


def results_or_errors(
    together: Iterable[tuple[str, T]], alone: Mapping[str, Callable[[], T]]
) -> Iterator[tuple[str, T | BinderclipError]]:
    """What comes of each of several, as it comes: (name, result), or (name, why there is none).

    Args:
        together: name -> result of all of them, which share their work; it may end in an error, which says nothing of
            the others.
        alone: makes each of them by itself; called for those that are missing after such an error.
    """
    waiting = dict(alone)
    try:
        for name, result in together:
            del waiting[name]
            yield name, result
        return
    except BinderclipError:
        pass
    for name, make in waiting.items():
        outcome: T | BinderclipError
        try:
            outcome = make()
        except BinderclipError as error:
            outcome = error
        yield name, outcome
