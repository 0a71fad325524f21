"""Heavy work of the page: one run at a time, the others wait in line; progress with time left; a stop that stops.

A run has a thread of its own. To stop it, `JobStopped` is raised inside that thread, as Ctrl-C would raise
`KeyboardInterrupt`, of which it is a kind: what the library does at Ctrl-C (a checkpoint written, a batch committed) it
does here as well, and work that reports no progress stops too.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from binderclip.errors import BinderclipError, UsageError

MOST_WAITING = 20
"""Runs that may wait in line; the next is refused."""
AGAIN = 10.0
"""Seconds after which a run that has swallowed a stop is stopped again."""

JobState = Literal["waiting", "running", "done", "failed", "stopped"]


class JobStopped(KeyboardInterrupt):
    """Raised inside a run that its user stopped, or whose page was closed."""


@dataclass(frozen=True)
class JobView:
    """A run as its user sees it.

    Attributes:
        state: `waiting`, `running`, `done`, `failed` or `stopped`.
        place: runs that come before it, 0 for the one that is at work.
        text: what it is doing, or what went wrong.
        fraction: done so far in [0, 1]; None where that is not known.
        seconds: since it began. seconds_left: at the rate so far; None where that is not known.
    """

    state: JobState
    place: int
    text: str
    fraction: float | None
    seconds: float
    seconds_left: float | None


class WorkbenchJob:
    """One run, in line or at work. What `work` is given, and may call: `say`, `progress` and `show`.

    Args:
        work: called with this run in a thread of its own; what it returns is `result`.
        session: whose it is. page: which of the session's pages started it.
    """

    def __init__(self, work: Callable[[WorkbenchJob], Any], session: str, page: str) -> None:
        self.work, self.session, self.page = work, session, page
        self.state: JobState = "waiting"
        self.result: Any = None
        self.left: Any = None
        """What there is of a run that is stopped, where its work has said so."""
        self.error = ""
        self.shown: tuple[int, Any] = (0, None)
        """How often `show` was called, and with what last."""
        self.stopping = False
        self._text = ""
        self._counts: tuple[float, float, float, float] | None = None
        self._began = 0.0
        self._ended_at = 0.0
        self._thread: threading.Thread | None = None

    # No lock below: the thread may be stopped anywhere, and one assignment is whole or not made.

    def say(self, text: str) -> None:
        """What is being done now, where nothing can be counted."""
        self._text, self._counts = text, None

    def progress(self, done: float, total: float, text: str = "") -> None:
        """How far the present step is; the time left follows from the units since its first report.

        Args:
            done: units done; fewer than before, or another `total`, begin another step.
            total: units in all.
            text: what is done; default what was said last.
        """
        before = self._counts
        same = before is not None and before[1] == float(total) and before[0] <= done
        first, start = before[2:] if same and before is not None else (float(done), time.monotonic())
        self._text, self._counts = text or self._text, (float(done), float(total), first, start)

    def show(self, value: Any) -> None:
        """Hand over what there is so far; the page shows the last of these while the run goes on."""
        self.shown = (self.shown[0] + 1, value)

    @property
    def ended(self) -> bool:
        """Whether it is done, failed or stopped."""
        return self.state in ("done", "failed", "stopped")

    def view(self, place: int = 0) -> JobView:
        """The run as it is now; `place` is that in line."""
        counts, fraction, left = self._counts, None, None
        now = self._ended_at or time.monotonic()
        if counts is not None and counts[1] > 0:
            fraction = min(1.0, max(0.0, counts[0] / counts[1]))
            done, total, first, start = counts
            if done > first and now - start > 0.5:
                left = (now - start) * max(0.0, total - done) / (done - first)
        seconds = now - self._began if self._began else 0.0
        return JobView(self.state, place, self.error or self._text, fraction, seconds, left)

    def _run(self) -> None:
        try:
            self.result = self.work(self)
        except BinderclipError as error:
            self.error = str(error)
        except (KeyboardInterrupt, SystemExit):
            self.stopping = True
        except MemoryError:
            self.error = "not enough memory for this: take a smaller picture, fewer labels or a smaller model"
        except Exception as error:
            if "memory" in str(error) and isinstance(error, RuntimeError):
                self.error = f"not enough memory for this ({str(error)[:120]})"
                return
            traceback.print_exc(file=sys.stderr)
            self.error = f"this is a fault of binderclip: {type(error).__name__}: {str(error)[:300]}"


class JobQueue:
    """Runs in the order in which they were asked for, one at a time."""

    def __init__(self, most_waiting: int = MOST_WAITING) -> None:
        self._most = most_waiting
        self._waiting: deque[WorkbenchJob] = deque()
        self._now: WorkbenchJob | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._worker: threading.Thread | None = None

    def submit(self, work: Callable[[WorkbenchJob], Any], *, session: str = "", page: str = "") -> WorkbenchJob:
        """Put a run in line.

        Args:
            work: see `WorkbenchJob`.
            session, page: whose it is.

        Raises:
            UsageError: the line is full, or closed.
        """
        job = WorkbenchJob(work, session, page)
        with self._changed:
            if self._closed:
                raise UsageError("the workbench is closing")
            if len(self._waiting) >= self._most:
                raise UsageError(f"{self._most} runs are waiting already: try again when some are done")
            self._waiting.append(job)
            if self._worker is None:
                self._worker = threading.Thread(target=self._serve, name="workbench-queue", daemon=True)
                self._worker.start()
            self._changed.notify_all()
        return job

    def view(self, job: WorkbenchJob) -> JobView:
        """The run with its place in line."""
        with self._changed:
            place = 0
            if job.state == "waiting" and job in self._waiting:
                place = self._waiting.index(job) + (self._now is not None)
        return job.view(place)

    def stop(self, job: WorkbenchJob) -> None:
        """Take a run out of the line, or stop it where it is; one that has ended stays as it is."""
        with self._changed:
            if job.ended or job.stopping:
                return
            job.stopping = True
            if job in self._waiting:
                self._waiting.remove(job)
                job.state = "stopped"
            elif job._thread is not None:
                _interrupt(job._thread)
            self._changed.notify_all()

    def stop_all(self, *, session: str | None = None, page: str | None = None) -> None:
        """Stop every run of a page, of a session, or every one."""
        with self._changed:
            jobs = [*self._waiting, *([self._now] if self._now else [])]
        for job in jobs:
            if session in (None, job.session) and page in (None, job.page):
                self.stop(job)

    def busy(self, session: str, page: str | None = None) -> bool:
        """Whether a run of this session (and page) is in line or at work."""
        with self._changed:
            jobs = [*self._waiting, *([self._now] if self._now else [])]
        return any(job.session == session and page in (None, job.page) for job in jobs)

    def wait(self, job: WorkbenchJob, seconds: float) -> bool:
        """Wait until a run has ended; whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: job.ended, seconds)

    def wait_idle(self, seconds: float) -> bool:
        """Wait until no run is in line or at work; whether that came about."""
        with self._changed:
            return self._changed.wait_for(lambda: self._now is None and not self._waiting, seconds)

    def close(self) -> None:
        """Take no more runs and stop those there are."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.stop_all()

    def _serve(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    self._worker = None
                    return
                job = self._now = self._waiting.popleft()
                # A thread for each run: an exception raised into it too late ends with it.
                job._thread = threading.Thread(target=job._run, name="workbench-run", daemon=True)
                job._began, job.state = time.monotonic(), "running"
                job._thread.start()
            self._watch(job)
            with self._changed:
                job._ended_at = time.monotonic()
                job.state = "stopped" if job.stopping else "failed" if job.error else "done"
                self._now = None
                self._changed.notify_all()

    def _watch(self, job: WorkbenchJob) -> None:
        assert job._thread is not None
        stopped_at = None
        while job._thread.is_alive():
            job._thread.join(0.1 if job.stopping else 0.5)
            if job.stopping:
                stopped_at = stopped_at or time.monotonic()
                if time.monotonic() - stopped_at > AGAIN:
                    stopped_at = time.monotonic()
                    _interrupt(job._thread)


def _interrupt(thread: threading.Thread) -> None:
    """Raise `JobStopped` in a running thread, when it next executes Python code."""
    if thread.ident is not None and thread.is_alive():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(JobStopped))
