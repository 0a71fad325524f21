"""What a long command is doing, said while it does it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.text import Text

from binderclip.cli.shared.output import note, notes, printable

T = TypeVar("T")
PAUSE = 10.0
"""Seconds between two lines where stderr is no terminal: a log wants few."""


@contextmanager
def stages(first: str) -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being done: one line that changes on a terminal, else a line every `PAUSE` seconds at most.

    Args:
        first: what is done first.

    Yields:
        `say(text)`, to be called whenever something else is done, as often as one likes.
    """
    if notes.is_terminal:
        with notes.status(Text(printable(first))) as status:
            yield lambda text: status.update(Text(printable(text)))
        return
    last = time.monotonic()

    def say(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= PAUSE:
            note(f"{text} ...")
            last = time.monotonic()

    yield say


def counted(items: Iterable[T], say: Callable[[str], object], text: str, total: int) -> Iterator[T]:
    """The items, and before each of them `text` with its number: `counted(paths, say, "picture", 60)`."""
    for number, item in enumerate(items, 1):
        say(f"{text} {number} of {total}")
        yield item
