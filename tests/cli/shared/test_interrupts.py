"""Ctrl-C in an import: it ends what has nothing to keep, and waits where something was done; elsewhere it is itself."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from binderclip.cli.shared.interrupts import PAUSE, interruptible, note_work

SWALLOWING = """
import os, signal, time
reached = []
try:
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.3)
    reached.append("end")
except BaseException:
    pass
"""
"""A module that drops what is raised while it is imported, as torch does where it imports NumPy."""


@pytest.fixture
def swallowing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that is interrupted while it is imported, and drops that."""
    (tmp_path / "swallows_interrupts.py").write_text(SWALLOWING)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "swallows_interrupts", raising=False)
    return "swallows_interrupts"


def wait(seconds: float) -> None:
    """Wait in steps that a signal is noticed between."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.005)


def refused() -> None:
    pytest.fail("the process would have ended")


def import_and_wait(name: str, *, worked: bool, leave: Callable[[], object]) -> None:
    """Import a module in which Ctrl-C is pressed, and do something else for a while."""
    with interruptible(leave):
        if worked:
            note_work()
        importlib.import_module(name)
        wait(20 * PAUSE)


def test_where_something_was_done_it_comes_after_the_import(swallowing: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        import_and_wait(swallowing, worked=True, leave=refused)
    assert sys.modules[swallowing].reached == ["end"]
    wait(3 * PAUSE)  # two presses were one interruption: nothing comes after it
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_where_nothing_was_done_the_process_ends_in_the_import(swallowing: str) -> None:
    reached = list[bool]()
    with pytest.raises(KeyboardInterrupt):  # only where `leave` comes back, as it never does in the program
        import_and_wait(swallowing, worked=False, leave=lambda: reached.append(hasattr(sys.modules[swallowing], "os")))
    assert reached[0]


def test_outside_of_imports_it_comes_at_once() -> None:
    def press() -> None:
        with interruptible(refused):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)
            pytest.fail("nothing was raised")

    with pytest.raises(KeyboardInterrupt):
        press()


def test_a_handler_of_ones_own_and_other_threads_are_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interruptible(refused):
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    errors = list[BaseException]()

    def work() -> None:
        try:
            with interruptible(refused):
                pass
        except ValueError as error:  # "signal only works in main thread"
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert not errors
