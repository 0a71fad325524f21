"""The front door: `binderclip`, `binderclip --help`, `--version`, and the completion of a shell."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binderclip import __version__, tasks
from binderclip.cli import panels

Command = Callable[..., Any]
VERBS_FOLDER = Path(panels.__file__).parent / "verbs"


def task_named(name: str) -> tasks.VerbTask[Any, Any] | None:
    found = getattr(tasks, name)
    return found if isinstance(found, tasks.VerbTask) else None


def test_every_verb_stands_in_one_panel() -> None:
    files = {path.stem.replace("_", "-") for path in VERBS_FOLDER.iterdir() if not path.name.startswith("_")}
    verbs = files | {each.request.task.split()[0] for name in tasks.__all__ if (each := task_named(name))}
    assert set(panels.VERBS) == verbs
    assert len(panels.VERBS) == len(verbs)


def test_help_shows_verbs_by_panel_a_line_each(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    importlib.import_module("binderclip.cli.shared.output")  # its tables keep the width of the time of the import
    monkeypatch.setenv("COLUMNS", "80")
    shown = command("--help").out
    places = [shown.index(f"─ {panel} ─") for panel in panels.PANELS]
    assert places == sorted(places)
    for place, end, verbs in zip(places, [*places[1:], len(shown)], panels.PANELS.values(), strict=True):
        rows = re.findall(r"^│ (\S+) +(.*?) +│$", shown[place:end], re.MULTILINE)
        # A verb whose line was folded would leave a row of its own; one not shown would be missing.
        assert [name for name, _ in rows] == list(verbs)
        assert [line.replace("`", "") for _, line in rows] == [line.replace("`", "") for line in verbs.values()]


def test_without_words_it_says_what_to_type_first(command: Command) -> None:
    done = command()
    assert done.code == 0
    assert done.err == ""
    assert len(done.out.splitlines()) <= 12
    verbs = re.findall(r"^  binderclip (\w+)", done.out, re.MULTILINE)
    assert len(verbs) >= 4
    assert set(verbs) <= set(panels.VERBS)
    assert "binderclip --help" in done.out


def test_version(command: Command) -> None:
    assert command("--version").out == f"binderclip {__version__}\n"


@pytest.mark.parametrize(("typed", "wanted"), [("exp", "explain"), ("an", "anomaly"), ("segment --pre", "--preset")])
def test_a_shell_completes_verbs_and_options(program: Command, typed: str, wanted: str) -> None:
    words = f"binderclip {typed}"
    done = program(_BINDERCLIP_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" ")))
    assert done.out.split() == [wanted]


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here to complete in")
def test_the_completion_script_is_bash(program: Command) -> None:
    script = program("--show-completion", _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1").out
    if "complete -o" not in script:
        script = program(_BINDERCLIP_COMPLETE="source_bash").out
    done = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, env=dict(os.environ))
    assert "binderclip" in script
    assert done.returncode == 0, done.stderr
