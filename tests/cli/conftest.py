"""The installed command, and a few pictures for it and for the same command in this process."""

from __future__ import annotations

import functools
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer.main

from binderclip.data import load_data

from ..conftest import Done

PROGRAM = Path(sys.executable).parent / "binderclip"
LONGEST = 280
"""Seconds that one call may take."""


Command = Callable[..., Done]


@pytest.fixture(scope="session", autouse=True)
def verbs_built_once() -> Iterator[None]:
    """Typer builds its commands anew at every call, which takes longer than most of the calls."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.main, "get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of every process."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Command:
    """`installed("classify", ..., cwd=folder)` runs the installed `binderclip`."""

    def call(*words: object, cwd: Path | None = None, **environment: str) -> Done:
        done = subprocess.run(
            [str(PROGRAM), *map(str, words)],
            cwd=cwd or tmp_path_factory.getbasetemp(),
            env={**os.environ, "BINDERCLIP_CACHE": str(cache), **environment},
            capture_output=True,
            text=True,
            timeout=LONGEST,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Done(done.returncode, done.stdout, done.stderr)

    return call


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[Command]:
    """As `installed`, in a new process that does not load torch and the like again: these are most of a short call.

    With `until="made/*.png"` it is interrupted as soon as there is such a file in its folder, with `said_text="epoch"`
    as soon as this stands on its standard error.
    """
    said = [tmp_path_factory.mktemp("program") / name for name in ("out", "err")]
    script = Path(__file__).with_name("forked.py")

    def started() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            start_new_session=True,
        )  # fmt: skip

    def stop(server: subprocess.Popen[str]) -> None:
        os.killpg(server.pid, signal.SIGKILL)  # a process that is still at it, too
        server.wait()

    server = started()

    def call(*words: object, cwd: Path | None = None, until: str = "", said_text: str = "", **environment: str) -> Done:
        asked = {
            "words": [str(PROGRAM), *map(str, words)],
            "cwd": str(cwd or tmp_path_factory.getbasetemp()),
            "environment": {**os.environ, "BINDERCLIP_CACHE": str(cache), **environment},
            "until": until,
            "said": said_text,
            "out": str(said[0]),
            "err": str(said[1]),
        }
        nonlocal server
        assert server.stdin
        assert server.stdout
        server.stdin.write(json.dumps(asked) + "\n")
        ready, _, _ = select.select([server.stdout], [], [], LONGEST)
        if not ready:
            # What it answers in the end would be taken for the answer of the next test.
            stop(server)
            server = started()
        assert ready, f"binderclip {words} is still at it after {LONGEST} s"
        code = int(server.stdout.readline())
        out, err = (path.read_text(encoding="utf-8") for path in said)
        assert "Traceback" not in err, err
        return Done(code, out, err)

    yield call
    stop(server)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of four photographs: cat.jpg, coffee.jpg, rocket.jpg and, below, more/flower.jpg."""
    folder = tmp_path_factory.mktemp("pictures")
    names = {"chelsea": "cat", "coffee": "coffee", "rocket": "rocket", "flower": "more/flower"}
    (folder / "more").mkdir()
    for sample in load_data("photographs"):
        if name := names.get(sample.key.split(".")[0]):
            sample.image.convert("RGB").save(folder / f"{name}.jpg")
    assert len(list(folder.rglob("*.jpg"))) == 4
    return folder


@pytest.fixture(scope="session")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PNG whose data ends early."""
    path = tmp_path_factory.mktemp("broken") / "broken.png"
    load_data("noto-emoji", split="val")[0].image.save(path)
    path.write_bytes(path.read_bytes()[:200])
    return path


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that ends in a second."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(
        """
data = [{name = "noto-emoji", split = "val", limit = 48}]
samples = 96
batch_size = 16
[model]
arch = "open_clip"
embed_dim = 32
tokenizer = "captions"
vocabulary = 300
context = 8
vision = {image_size = 32, patch_size = 16, layers = 1, width = 32, head_width = 16}
text = {width = 32, heads = 2, layers = 1}
[evaluation]
data = [{name = "noto-emoji", split = "val", limit = 32}]
"""
    )
    return path
