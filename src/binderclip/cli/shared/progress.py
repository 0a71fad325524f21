"""What a long command is doing, said while it does it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.text import Text

from binderclip.cli.shared.interrupts import note_work
from binderclip.cli.shared.output import note, notes, printable, warn_skipped
from binderclip.display import time_left
from binderclip.tasks.events import Counted, Event, LeftOut, Reported, Started, Warned, listening

__all__ = ["Terminal", "stages"]

PAUSE = 10.0
"""Seconds between two lines where stderr is no terminal: a log wants few."""
EARLY = 3.0
"""Seconds before the first of them: who waits wants to know soon that something happens."""
LONGEST = 60.0
"""Seconds between two lines that say the same: each pause of such lines is twice the one before, up to this."""


@contextmanager
def stages(first: str) -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being done: one line that changes on a terminal, else a line every `PAUSE` seconds.

    The lines come while one stage lasts, too: a clock prints them, so that nothing that takes long is silent. What a
    task emits meanwhile is said here.

    Args:
        first: what is done first.

    Yields:
        `say(text)`, to be called whenever something else is done, as often as one likes.
    """
    if notes.is_terminal:
        with notes.status(Text(printable(first))) as status, _heard(lambda text: status.update(Text(printable(text)))):
            yield lambda text: status.update(Text(printable(text)))
        return
    if os.environ.get("RANK", "0") != "0":  # of several processes one says what all do
        yield lambda text: None
        return
    log = _Log(first)
    try:
        with _heard(log.say):
            yield log.say
    finally:
        log.end()


@contextmanager
def _heard(say: Callable[[str], object]) -> Iterator[None]:
    terminal = Terminal(say)
    try:
        with listening(terminal):
            yield
    finally:
        terminal.end()


class Terminal:
    """Writes a task's events on stderr: reports and warnings as notes, files left out together, and what is being done.

    Args:
        say: is given what is being done; None where there is no line for it.
    """

    def __init__(self, say: Callable[[str], object] | None = None) -> None:
        self.say = say
        self._skipped: list[tuple[str, str]] = []
        self._counting: tuple[str, int] | None = None
        self._first, self._began = 0, 0.0

    def __call__(self, event: Event) -> None:
        """Write one event."""
        if not isinstance(event, (Started, Warned)):
            note_work()
        if isinstance(event, LeftOut):
            self._skipped.append((event.path, event.reason))
            return
        self.end()
        if isinstance(event, (Reported, Warned)):
            note(event.message)
        elif self.say is not None and isinstance(event, Started):
            self.say(event.message)
        elif self.say is not None and isinstance(event, Counted):
            self.say(self._step_text(event))

    def end(self) -> None:
        """Write which files were left out since."""
        warn_skipped(self._skipped)
        self._skipped = []

    def _step_text(self, step: Counted) -> str:
        """ "picture 12 of 60, about 40 s left"; one unit alone is not counted."""
        done = step.done - step.begun
        if self._counting != (step.message, step.total) or done < self._first:
            # Files of before may have been done in no time: the pace is that of what is seen from here on. A report
            # after the first unit says nothing of when that began.
            self._counting, self._first, self._began = (step.message, step.total), done, time.monotonic()
        if step.begun and step.total == 1:
            return step.message
        left = time_left(self._began, done - self._first, step.total - self._first)
        figures = "".join(f", {name} {value:.3g}" for name, value in step.figures.items())
        return f"{step.message} {step.done} of {step.total}{figures}{left}".strip()


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
