"""One writer at a time on object storage: real processes that try at once, dead owners, slow ones."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binderclip.data import storage as s3
from binderclip.errors import DataError
from binderclip.search import object_lock
from binderclip.search.object_lock import CLAIMS, one_object_writer
from binderclip.search.place import connected

pytest.importorskip("lancedb")

AT_ONCE = """
import sys, time
from pathlib import Path
from binderclip.errors import DataError
from binderclip.search.object_lock import one_object_writer
from binderclip.search.place import connected

place, name, marks, rounds = sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4])
connected(place + "/warm").table_names()
for number in range(rounds):
    (marks / f"ready-{number}-{name}").touch()
    while not (marks / f"go-{number}").exists():
        time.sleep(0.002)
    try:
        with one_object_writer(place, connected):
            (marks / f"inside-{number}-{name}").touch()
            while not (marks / f"over-{number}").exists():
                time.sleep(0.01)
        print(number, "wrote", flush=True)
    except DataError as error:
        print(number, "refused:", error, flush=True)
    (marks / f"done-{number}-{name}").touch()
"""
DIES = """
import os, sys
from binderclip.search.object_lock import one_object_writer
from binderclip.search.place import connected

with one_object_writer(sys.argv[1], connected):
    os._exit(9)
"""


def started(script: str, *words: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, words)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def until(found: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, "a process ended early"
        assert time.monotonic() < end
        time.sleep(0.005)


def test_of_processes_that_begin_at_once_one_writes(bucket: str, tmp_path: Path) -> None:
    """Three of them, four times; whoever is refused is told so while the other one writes."""
    place, rounds, names = f"{bucket}/photos.index", 4, "abc"
    running = [started(AT_ONCE, place, name, tmp_path, rounds) for name in names]
    for number in range(rounds):
        for what, mark in ((f"ready-{number}-*", f"go-{number}"), (f"inside-{number}-*", "")):
            wanted = len(names) if mark else 1
            until(lambda what=what, wanted=wanted: len(list(tmp_path.glob(what))) >= wanted, running[0])
            if mark:
                (tmp_path / mark).touch()
        until(lambda number=number: len(list(tmp_path.glob(f"done-{number}-*"))) >= len(names) - 1, running[0])
        (tmp_path / f"over-{number}").touch()
    said = [process.communicate(timeout=120)[0].splitlines() for process in running]
    for number in range(rounds):
        lines = [lines[number] for lines in said]
        assert sorted(line.split()[1] for line in lines) == ["refused:", "refused:", "wrote"]
        for line in lines:
            assert line.endswith("wrote") or "write to this index" in line or "is writing to this index" in line
    claims = {url.split("/")[5] for url in s3.list_objects(f"{place}/{CLAIMS}", ("",))}
    assert {name.split(".")[0] for name in claims} == {f"claim-{rounds:08d}"}  # the earlier ones were removed


def test_a_dead_owner_is_passed_when_its_lease_is_over(bucket: str) -> None:
    place = f"{bucket}/photos.index"
    dead = started(DIES, place)
    assert dead.wait(timeout=120) == 9
    with (
        pytest.raises(DataError, match=rf"process {dead.pid} of .* is writing to this index; .*left behind in \d+ s"),
        one_object_writer(place, connected),
    ):
        pytest.fail("written beside another")
    time.sleep(2.5)  # the server's times are whole seconds
    with pytest.warns(UserWarning, match=f"process {dead.pid} of"), one_object_writer(place, connected, lease=1.0):
        pass
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with one_object_writer(place, connected):  # whoever is done leaves nothing to wait for
            pass


def test_an_owner_that_is_alive_says_so(bucket: str) -> None:
    place = f"{bucket}/photos.index"
    with one_object_writer(place, connected, lease=4.0):
        time.sleep(6.0)
        with pytest.raises(DataError, match="is writing to this index"), one_object_writer(place, connected, lease=4.0):
            pytest.fail("written beside another")


def test_an_owner_that_was_passed_is_told(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place = f"{bucket}/photos.index"
    monkeypatch.setattr(object_lock._Claim, "_tell_until", lambda self, over: None)  # as a process that was stopped
    slow, quick = (one_object_writer(place, connected, lease=1.0) for _ in range(2))
    slow.__enter__()
    time.sleep(2.5)
    with pytest.warns(UserWarning, match="has been silent"), quick:
        pass
    with pytest.raises(DataError, match="another has begun to write"):
        slow.__exit__(None, None, None)


def test_the_command_says_who_is_writing(
    bucket: str, command: Callable[..., Any], tiny_clip: Callable[[int], Path]
) -> None:
    place, words = f"{bucket}/photos.index", ("search", "index", "examples/photos", "--model", str(tiny_clip(1)))
    from binderclip.data import load_data

    Path("examples/photos").mkdir(parents=True)
    for number, sample in enumerate(load_data("noto-emoji", split="val")[:3]):
        sample.image.save(f"examples/photos/{number}.png")
    with one_object_writer(place, connected):
        done = command(*words, "--index", place)
    assert (done.code, f"process {os.getpid()} of" in done.err) == (1, True), done.err
    again = command(*words, "--index", place)
    assert again.code == 0, again.err
    assert not s3.list_objects(f"{place}/{CLAIMS}", ("now",))
