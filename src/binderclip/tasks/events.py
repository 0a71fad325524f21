"""What a task says while it works, as typed events; and the token by which it is stopped.

A task never prints. It emits events to whoever listens (`listening`): the command line writes them on stderr, the
workbench moves its progress bar, a program collects them; where nobody listens nothing happens.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "Counted",
    "Event",
    "LeftOut",
    "Listener",
    "PartialResult",
    "Previewed",
    "Reported",
    "Saved",
    "Started",
    "StopToken",
    "Stopped",
    "Warned",
    "batches",
    "counted",
    "emit",
    "line",
    "listening",
    "skip",
    "start",
    "warn",
]  # fmt: skip

T = TypeVar("T")
_COUNTED = re.compile(r"(?P<message>.*?):? ?(?P<done>[0-9]+) of (?P<total>[0-9]+)")
"""What trainers of the library say of their steps."""


@dataclass(frozen=True)
class Started:
    """A stage began, of which nothing is counted.

    Attributes:
        message: what is being done, such as "loading the model".
    """

    message: str


@dataclass(frozen=True)
class Counted:
    """A stage is so far.

    Attributes:
        done, total: units. message: what is counted, such as "picture".
        figures: measured so far, such as a loss.
        begun: whether `done` counts the unit that is being worked on.
    """

    done: int
    total: int
    message: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)
    begun: bool = False


@dataclass(frozen=True)
class LeftOut:
    """A file was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Reported:
    """Something that was found out on the way, such as what the work will cost, or a measurement."""

    message: str


@dataclass(frozen=True)
class Warned:
    """Something that the user should know of the result, or of how it is made."""

    message: str


@dataclass(frozen=True)
class Saved:
    """A file or folder was written."""

    path: Path


@dataclass(frozen=True)
class PartialResult:
    """A part of the result is there before the others.

    Attributes:
        name: of the part, such as a method's. outcome: its figures, or as text why there are none.
    """

    name: str
    outcome: Any


@dataclass(frozen=True)
class Previewed:
    """What pictures that are made step by step look like, as far as is known now.

    Attributes:
        render: draws them, RGB or RGBA; who does not look does not pay for it. It is called while the event is heard,
            if at all.
        path: of the file that holds the picture already, where one does.
    """

    render: Callable[[], list[Image.Image]]
    path: Path | None = None


Event: TypeAlias = "Started | Counted | LeftOut | PartialResult | Previewed | Reported | Warned | Saved"
Listener: TypeAlias = Callable[[Event], object]


class Stopped(KeyboardInterrupt):
    """A task was stopped by its token; what the library keeps at Ctrl-C it keeps here, too."""


class StopToken:
    """Stops a task from another thread, at its next event."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let the task raise `Stopped`."""
        self._stopped.set()

    def check(self) -> None:
        """Raise `Stopped` where `stop` was called."""
        if self._stopped.is_set():
            raise Stopped


_current: ContextVar[tuple[Listener | None, StopToken | None]] = ContextVar("current", default=(None, None))


@contextmanager
def listening(listener: Listener | None, stop: StopToken | None = None) -> Iterator[None]:
    """In here events go to a listener; None leaves them where they went before.

    Args:
        listener: called with each event, in the thread that works.
        stop: looked at before each event; None keeps the token of before.
    """
    before = _current.get()
    _current.set((listener or before[0], stop or before[1]))
    try:
        yield
    finally:
        _current.set(before)


def emit(event: Event) -> None:
    """Hand an event to who listens.

    Raises:
        Stopped: the task is to end.
    """
    listener, stop = _current.get()
    if stop is not None:
        stop.check()
    if listener is not None:
        listener(event)


def start(message: str) -> None:
    """Say which stage begins."""
    emit(Started(message))


def line(text: str) -> None:
    """Hand on what a trainer of the library says: "fitting: step 3 of 200" is a `Counted`, anything else a stage."""
    counts = _COUNTED.fullmatch(text)
    emit(Counted(int(counts["done"]), int(counts["total"]), counts["message"]) if counts else Started(text))


def warn(message: str) -> None:
    """Say what the user should know."""
    emit(Warned(message))


def skip(files: Iterable[tuple[object, str]]) -> None:
    """Say which files were left out, and why each."""
    for path, reason in files:
        emit(LeftOut(str(path), reason))


def counted(items: Iterable[T], message: str, total: int) -> Iterator[T]:
    """The items, with a `Counted` before each of them: "picture 12 of 60" while the twelfth is worked on."""
    for number, item in enumerate(items, 1):
        emit(Counted(number, total, message, begun=True))
        yield item


def batches(message: str) -> Callable[[int, int], None]:
    """A callback for what is done in batches: `(done, total)` becomes a `Counted`."""
    return lambda done, total: emit(Counted(done, total, message))
