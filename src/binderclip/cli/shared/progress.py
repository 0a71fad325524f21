"""What a long command is doing, said while it does it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.text import Text

from binderclip.cli.shared.output import note, notes, printable
from binderclip.display import duration, time_left

__all__ = ["batches_said", "counted", "duration", "stages", "time_left"]

T = TypeVar("T")
PAUSE = 10.0
"""Seconds between two lines where stderr is no terminal: a log wants few."""
EARLY = 3.0
"""Seconds before the first of them: who waits wants to know soon that something happens."""
LONGEST = 60.0
"""Seconds between two lines that say the same: each pause of such lines is twice the one before, up to this."""


@contextmanager
def stages(first: str) -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being done: one line that changes on a terminal, else a line every `PAUSE` seconds.

    The lines come while one stage lasts, too: a clock prints them, so that nothing that takes long is silent.

    Args:
        first: what is done first.

    Yields:
        `say(text)`, to be called whenever something else is done, as often as one likes.
    """
    if notes.is_terminal:
        with notes.status(Text(printable(first))) as status:
            yield lambda text: status.update(Text(printable(text)))
        return
    log = _Log(first)
    try:
        yield log.say
    finally:
        log.end()


class _Log:
    """Prints the latest text, the first time after `EARLY` seconds, then every `PAUSE`; the same text more seldom."""

    def __init__(self, text: str) -> None:
        self.said, self.pause = "", PAUSE
        self.text, self.due = text, time.monotonic() + min(EARLY, PAUSE)
        self.lock, self.ended = threading.Lock(), threading.Event()
        self.clock = threading.Thread(target=self._tick, daemon=True)
        self.clock.start()

    def say(self, text: str) -> None:
        with self.lock:
            if text != self.text and self.said == self.text:
                # Something new is not kept waiting by a pause that had grown long.
                self.due = min(self.due, time.monotonic() + PAUSE)
            self.text = text
        self._print_if_due()

    def end(self) -> None:
        self.ended.set()
        self.clock.join()

    def _tick(self) -> None:
        while not self.ended.wait(max(0.5, self.due - time.monotonic())):
            self._print_if_due()

    def _print_if_due(self) -> None:
        with self.lock:
            if time.monotonic() < self.due:
                return
            self.pause = min(2 * self.pause, LONGEST) if self.text == self.said else PAUSE
            self.said, self.due = self.text, time.monotonic() + self.pause
            note(f"{self.text} ...")


def counted(items: Iterable[T], say: Callable[[str], object], text: str, total: int) -> Iterator[T]:
    """The items, and before each of them `text` with its number and the time left.

    `counted(paths, say, "picture", 60)` says "picture 12 of 60, about 40 s left".
    """
    began = time.monotonic()
    for number, item in enumerate(items, 1):
        say(f"{text} {number} of {total}{time_left(began, number - 1, total)}" if total > 1 else text)
        yield item


def batches_said(say: Callable[[str], object], text: str) -> Callable[[int, int], None]:
    """A callback for what is done in batches: `(done, total)` becomes "picture 128 of 4000, about 3 min left"."""
    began = time.monotonic()

    def step(done: int, total: int) -> None:
        say(f"{text} {done} of {total}{time_left(began, done, total)}")

    return step
