"""The line of runs: one at a time, in order, with a place; stopped for good, whatever they are doing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from binderclip.errors import DataError, UsageError
from binderclip.workbench.jobs import JobQueue, JobStopped, WorkbenchJob

LONG = 60.0


@pytest.fixture
def queue() -> Iterator[JobQueue]:
    queue = JobQueue(most_waiting=3)
    yield queue
    queue.close()


def held(queue: JobQueue, **owner: str) -> tuple[WorkbenchJob, threading.Event]:
    """A run that is at work until its event is set."""
    begun, release = threading.Event(), threading.Event()

    def work(_: WorkbenchJob) -> str:
        begun.set()
        end = time.monotonic() + LONG
        while not release.is_set():
            assert time.monotonic() < end
            time.sleep(0.01)
        return "held"

    job = queue.submit(work, **owner)
    assert begun.wait(LONG)
    return job, release


def ended(queue: JobQueue, job: WorkbenchJob) -> str:
    assert queue.wait(job, LONG)
    return queue.view(job).state


def test_runs_take_turns_in_the_order_in_which_they_came(queue: JobQueue) -> None:
    first, release = held(queue)
    at_work, order, most = 0, [], 0

    def work(name: str) -> Any:
        def run(_: WorkbenchJob) -> None:
            nonlocal at_work, most
            at_work += 1
            most = max(most, at_work)
            time.sleep(0.05)
            order.append(name)
            at_work -= 1

        return run

    others = [queue.submit(work(name)) for name in "abc"]
    assert [queue.view(job).place for job in (first, *others)] == [0, 1, 2, 3]
    assert {queue.view(job).state for job in others} == {"waiting"}
    release.set()
    assert [ended(queue, job) for job in others] == ["done"] * 3
    assert order == ["a", "b", "c"]
    assert most == 1
    assert first.result == "held"


def test_a_run_in_line_moves_up_when_one_before_it_is_taken_out(queue: JobQueue) -> None:
    _, release = held(queue)
    ran = []
    a, b = queue.submit(lambda _: ran.append("a")), queue.submit(lambda _: ran.append("b"))
    queue.stop(a)
    assert queue.view(a).state == "stopped"
    assert queue.view(b).place == 1
    release.set()
    assert ended(queue, b) == "done"
    assert ran == ["b"]


def test_the_line_has_an_end(queue: JobQueue) -> None:
    _, release = held(queue)
    for _ in range(3):
        queue.submit(lambda _: None)
    with pytest.raises(UsageError, match="3 runs are waiting"):
        queue.submit(lambda _: None)
    release.set()


def test_a_run_that_reports_nothing_is_stopped_where_it_is(queue: JobQueue) -> None:
    begun, cleaned, after = threading.Event(), threading.Event(), []

    def work(_: WorkbenchJob) -> None:
        try:
            begun.set()
            while True:
                time.sleep(0.01)
        except JobStopped:
            cleaned.set()
            raise

    job = queue.submit(work)
    assert begun.wait(LONG)
    queue.stop(job)
    assert ended(queue, job) == "stopped"
    assert cleaned.is_set()
    # The next one is not met by an exception that was meant for the last.
    following = queue.submit(lambda _: after.append(sum(range(10_000))))
    assert ended(queue, following) == "done"
    assert after == [49995000]


def test_a_stop_reaches_what_ctrl_c_reaches(queue: JobQueue) -> None:
    begun, saved = threading.Event(), []

    def work(_: WorkbenchJob) -> None:
        try:
            begun.set()
            while True:
                time.sleep(0.01)
        except KeyboardInterrupt:
            saved.append("checkpoint")
            raise

    job = queue.submit(work)
    assert begun.wait(LONG)
    queue.stop(job)
    assert ended(queue, job) == "stopped"
    assert saved == ["checkpoint"]


def test_a_page_that_closes_takes_its_own_runs_along_and_no_others(queue: JobQueue) -> None:
    own, _ = held(queue, session="s", page="p")
    waiting = queue.submit(lambda _: None, session="s", page="p")
    neighbour = queue.submit(lambda _: "kept", session="s", page="q")
    stranger = queue.submit(lambda _: "kept", session="t", page="p")
    assert queue.busy("s", "p")
    queue.stop_all(session="s", page="p")
    assert [ended(queue, job) for job in (own, waiting, neighbour, stranger)] == ["stopped", "stopped", "done", "done"]
    assert not queue.busy("s")


def test_an_error_raised_on_purpose_is_its_message_and_any_other_a_fault(
    queue: JobQueue, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(_: WorkbenchJob) -> None:
        raise DataError("cat.png: cut short")

    def fault(_: WorkbenchJob) -> None:
        raise KeyError("x")

    def full(_: WorkbenchJob) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    jobs = [queue.submit(work) for work in (wrong, fault, full)]
    assert [ended(queue, job) for job in jobs] == ["failed"] * 3
    assert queue.view(jobs[0]).text == "cat.png: cut short"
    assert "fault of binderclip: KeyError" in queue.view(jobs[1]).text
    assert queue.view(jobs[2]).text.startswith("not enough memory")
    assert "Traceback" in capsys.readouterr().err


def test_time_left_is_the_time_so_far_over_the_share_done(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("binderclip.workbench.jobs.time.monotonic", lambda: now)
    job = WorkbenchJob(lambda _: None, "", "")
    job.progress(0, 40, "encoding")
    assert job.view().seconds_left is None
    now = 106.0
    job.progress(30, 40)
    view = job.view()
    assert (view.text, view.fraction) == ("encoding", 0.75)
    assert view.seconds_left == pytest.approx(2.0)
    # Another step begins its own clock.
    job.progress(0, 10, "drawing")
    now = 110.0
    job.progress(5, 10)
    assert job.view().seconds_left == pytest.approx(4.0)
    # A text that changes with every unit is one step still, and what was done before its first report has no pace.
    job.progress(90, 100, "step 90")
    now = 120.0
    assert job.view().seconds_left is None
    job.progress(95, 100, "step 95")
    assert job.view().seconds_left == pytest.approx(10.0)
    job.say("saving")
    assert job.view().fraction is None


def test_what_there_is_so_far_is_counted(queue: JobQueue) -> None:
    def work(job: WorkbenchJob) -> None:
        job.show(("a",))
        job.show(("b",))

    job = queue.submit(work)
    assert ended(queue, job) == "done"
    assert job.shown == (2, ("b",))


def test_a_closed_line_takes_nothing(queue: JobQueue) -> None:
    job, _ = held(queue)
    assert not queue.wait_idle(0.01)
    queue.close()
    assert queue.wait_idle(LONG)
    assert ended(queue, job) == "stopped"
    with pytest.raises(UsageError, match="closing"):
        queue.submit(lambda _: None)
