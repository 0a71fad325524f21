"""Five hundred hostile calls through the function behind `binderclip`, the same ones every time.

A call is handled badly if it ends in anything but an exit code, takes too long, says more than 600 characters about
what was wrong, ends well although nothing can come of it, or leaves a file where nobody asked for one. For more of
them, and with models: `BINDERCLIP_FUZZ_SEEDS=40 BINDERCLIP_FUZZ_MODELS=1 pytest tests/cli/test_fuzz.py`.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import binderclip.adapt.selection
import binderclip.models
import binderclip.segment
import binderclip.studies
import binderclip.train
from binderclip import cli
from binderclip.cli.verbs import demo
from binderclip.errors import BinderclipError
from binderclip.optim import ClipLog, NormClip
from binderclip.search import SearchIndex
from binderclip.workbench import server

_spec = importlib.util.spec_from_file_location("hostile", Path(__file__).with_name("hostile.py"))
assert _spec is not None
assert _spec.loader is not None
hostile = importlib.util.module_from_spec(_spec)
sys.modules["hostile"] = hostile
_spec.loader.exec_module(hostile)

CALLS = 60
SEEDS = int(os.environ.get("BINDERCLIP_FUZZ_SEEDS", "10"))
MODELS = float(os.environ.get("BINDERCLIP_FUZZ_MODELS", "0.06"))
"""Share of the calls that may go on to a model once they are through the checks; the others end there."""
LOADERS = ((binderclip.models, "load"), (binderclip.models, "load_encoder"), (binderclip.segment, "load_promptable"))
LONG = ((binderclip.train, "run"), (binderclip.studies, "run_study"), (binderclip.adapt.selection, "select_head"),
        (binderclip.adapt.selection, "select_labels"), (server, "WorkbenchServer"), (demo, "_classify"))  # fmt: skip


class Reached(BinderclipError):
    """The checks let a call through; what comes next would take long."""


def _ended(*_: Any, **__: Any) -> None:
    raise Reached("the checks are over")


_ended.ends_calls = True  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `world`, the files that calls name, `here`, where they are made, `tmp` and `cache`."""
    base = tmp_path_factory.mktemp("fuzz")
    for name in ("here", "tmp", "cache"):
        (base / name).mkdir()
    _build(base)
    return base


def _build(base: Path) -> None:
    shutil.rmtree(base / "world", ignore_errors=True)
    hostile.make_world(base / "world")
    # not by the loader of a call, which may be one that ends it
    small = _load_once[binderclip.models, "load"]("small")
    SearchIndex(base / "world" / "indexed", small).update(base / "world" / "pictures")
    weight = torch.nn.Parameter(torch.ones(3))
    log = ClipLog(NormClip(1.0), out=base / "world" / "log")
    for _ in range(3):
        weight.grad = torch.ones(3)
        log([("weight", weight)])
    log.close()


@pytest.fixture
def place(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The base as the current place, where nothing that takes minutes is begun."""
    monkeypatch.chdir(base / "here")
    monkeypatch.setenv("BINDERCLIP_CACHE", str(base / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(tempfile, "tempdir", str(base / "tmp"))
    for where, name in LONG:
        monkeypatch.setattr(where, name, _ended)
    yield base
    _give_back()


_ORIGINALS = {name: getattr(where, name) for where, name in (*LOADERS, *LONG)}


def _give_back() -> None:
    """What a module that was first imported meanwhile has taken by name (`from binderclip.models import load`)."""
    for key, module in list(sys.modules.items()):
        if not key.startswith("binderclip"):
            continue
        for name, original in _ORIGINALS.items():
            if getattr(vars(module).get(name), "ends_calls", False):
                setattr(module, name, original)


_load_once = {(where, name): functools.cache(getattr(where, name)) for where, name in LOADERS}


def _loader(key: Any, models: bool) -> Callable[..., Any]:
    """Loads each model once; where calls may have none, only names that are no model's are looked at."""

    def load(name: Any, **options: Any) -> Any:
        odd = name not in ("small", "small-sam") or set(options.values()) - {"cpu", "float32"}
        return _load_once[key](name, **options) if models or odd else _ended()

    load.ends_calls = True  # type: ignore[attr-defined]
    return load


def test_nothing_is_left_switched_off(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb that is first imported while its loader is switched off would keep it so for every later test."""
    from binderclip.tasks.verbs.probe import run

    monkeypatch.setattr(run, "load_encoder", _loader((binderclip.models, "load_encoder"), False))
    _give_back()
    assert run.load_encoder is _ORIGINALS["load_encoder"]


@pytest.mark.parametrize("seed", range(SEEDS))
def test_hostile_calls_are_handled_well(
    seed: int, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng, badly = random.Random(seed), []
    for call in hostile.hostile_calls(seed, CALLS):
        models = rng.random() < MODELS
        for where, name in LOADERS:
            monkeypatch.setattr(where, name, _loader((where, name), models))
        if wrong := _wrong(call, place, monkeypatch, capsys):
            badly.append(f"binderclip {call.shown()}\n    {wrong}")
    assert not badly, f"{len(badly)} of {CALLS} handled badly:\n" + "\n".join(badly)


def _wrong(call: Any, base: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What is wrong with how a call is handled; "" if nothing is."""
    patch.setattr("sys.argv", ["binderclip", *call.words])
    before = hostile.listing(base / "world", base / "tmp")
    capsys.readouterr()
    try:
        with hostile.at_most(hostile.SECONDS):
            cli.main()
        code: Any = "none"
    except SystemExit as left:
        code = left.code or 0
    except hostile.TooLong:
        return f"more than {hostile.SECONDS} s"
    except BaseException as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__}: {str(error)[:200]} ({Path(frame.filename).name}:{frame.lineno})"
    finally:
        said = capsys.readouterr()
        made = [path for path in (base / "here").rglob("*") if path.is_file()]
        shutil.rmtree(base / "here", ignore_errors=True)
        (base / "here").mkdir(exist_ok=True)
        os.chdir(base / "here")
        changed, strays = _strays(call, base, before)
    message = said.err.replace("python -m pytest.binderclip", "binderclip")
    message = message[max(message.rfind("error: "), message.rfind("Usage: "), 0) :]
    # 3 says that a picture is above the threshold of `anomaly`.
    judged = code == 3 and any(str(word).startswith("--threshold") for word in call.words)
    if code not in (0, 1, 2) and not judged:
        return f"exit code {code!r}"
    if strays:
        return f"left {', '.join(map(str, strays))}"
    if code and len(message) > hostile.SAID:
        return f"{len(message)} characters: {message[:300]!r}"
    if code and not message.strip() and not said.out.strip():
        return f"exit code {code} without a word"
    if "\x1b" in said.out + said.err:
        return "a control character is printed"
    if not code and (call.hopeless or not (said.out.strip() or made or changed)):
        return f"ends well on nothing: {said.out[:200]!r}"
    if not code and "--json" in call.words:
        json.loads(said.out)
    return ""


def _strays(call: Any, base: Path, before: dict[Path, tuple[int, int]]) -> tuple[list[Path], list[Path]]:
    """Files that were made or changed, and those of them where the call did not say; the world is mended."""
    after = hostile.listing(base / "world", base / "tmp")
    changed = [path for path, state in after.items() if before.get(path) != state]
    gone = [path for path in before if path not in after]
    named = [
        Path(os.path.normpath(base / "here" / word)) for word in call.words if len(word) < 200 and "\0" not in word
    ]
    named += [path / ".binderclip" for path in named]
    for path in changed:
        if path not in before:
            path.unlink()
    if gone or any(path in before for path in changed):
        _build(base)
    return changed, [path for path in [*changed, *gone] if not any(own == path or own in path.parents for own in named)]


def test_every_verb_is_called() -> None:
    called = [call.words for seed in range(10) for call in hostile.hostile_calls(seed, CALLS)]
    for verb in hostile.verbs():
        assert sum(words[: len(verb)] == verb for words in called) >= 5, verb


@pytest.mark.parametrize(
    "words",
    [
        [b"classify", b"caf\xe9.png", b"-l", b"[red]x[/],\xff\xfe"],
        [b"train", b"deep.toml"],
        [b"search", b"query", b"\xff", b"-i", b"deep"],
    ],
    ids=["bytes", "deep", "query"],
)
def test_a_real_process_takes_bytes_that_are_no_text(words: list[bytes], tmp_path: Path, program: Any) -> None:
    (tmp_path / "deep.toml").write_text("a = " + "[" * 100_000)
    command = [os.fsencode(Path(sys.executable).parent / "binderclip"), *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 2, done.stderr
    # On a slow machine what is being done is said before.
    assert done.stderr.splitlines()[-1].startswith(b"error: ")
    assert len(done.stderr) < hostile.SAID
