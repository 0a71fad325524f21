"""Ctrl-C in the middle of an import, where it gets lost."""

from __future__ import annotations

import _thread
import inspect
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["interruptible", "note_work"]

PAUSE = 0.05
"""Seconds after which an interruption that waits is tried again."""
IMPORT_SYSTEM = "<frozen importlib._bootstrap"
"""What the file names of its frames begin with."""

_worked = threading.Event()


def note_work() -> None:
    """Say that something was done, so that an interruption may find something to keep."""
    _worked.set()


@contextmanager
def interruptible(leave: Callable[[], object]) -> Iterator[None]:
    """In here Ctrl-C raises KeyboardInterrupt as ever, but in an import.

    Libraries drop what is raised while they are imported: torch does so with what stops its import of NumPy, and the
    run goes on with a NumPy of which a part is missing. Until `note_work` is called nothing can be lost, and the
    process ends at once; later the interruption waits until the import is over.

    Args:
        leave: ends the process, without raising anything.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield  # who has a handler of their own knows better
        return
    _worked.clear()
    before = _imports(inspect.currentframe())
    waits = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal waits
        if _imports(frame) == before:
            waits = False
            signal.default_int_handler(number, frame)
        if not _worked.is_set():
            leave()
        if not waits:  # Ctrl-C pressed twice is one interruption
            waits = True
            clock = threading.Timer(PAUSE, again)
            clock.daemon = True
            clock.start()

    def again() -> None:
        nonlocal waits
        if waits:
            waits = False
            _thread.interrupt_main()

    signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        waits = False
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _imports(frame: FrameType | None) -> int:
    """Frames of the import system that a frame was called from."""
    count = 0
    while frame is not None:
        count += frame.f_code.co_filename.startswith(IMPORT_SYSTEM)
        frame = frame.f_back
    return count
