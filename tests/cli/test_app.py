"""How the command line ends: by Ctrl-C, by a reader that has gone, by values that nobody could mean."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
from PIL import Image

from binderclip.cli.app import VERBS, verb_app
from binderclip.cli.shared import output

Command = Callable[..., Any]
PROGRAM = Path(sys.executable).parent / "binderclip"


def options() -> Iterator[tuple[tuple[str, ...], str, Any, Any]]:
    """(verb, option, annotated type, Typer's description) of every verb, as it is declared."""
    alone = [verb_app(verb) for verb in VERBS]
    groups = [((str(group.name),), group.typer_instance) for own in alone for group in own.registered_groups]
    for path, group in [*(((), own) for own in alone), *groups]:
        for command in group.registered_commands:
            function = command.callback
            assert function is not None
            verb = (*path, command.name or function.__name__)
            hints = get_type_hints(function, include_extras=True)
            for name in inspect.signature(function).parameters:
                assert get_origin(hints[name]) is Annotated, (verb, name)
                kind, described = get_args(hints[name])[:2]
                declared = [text for text in described.param_decls or () if text.startswith("--")]
                yield verb, (declared or ["--" + name.replace("_", "-")])[0], kind, described


def numbers(*kinds: type) -> list[tuple[tuple[str, ...], str, Any]]:
    found = []
    for verb, option, kind, described in options():
        if set(get_args(kind) or (kind,)) - {type(None)} <= set(kinds):
            found.append((verb, option, described))
    return found


def test_every_number_has_bounds() -> None:
    found = numbers(int, float)
    assert len(found) > 25
    assert {verb[0] for verb, *_ in found} < set(VERBS)
    unbounded = [(verb, option) for verb, option, own in found if own.min is None or own.max is None]
    assert unbounded == []


@pytest.mark.parametrize("value", ["1" + "0" * 25, "-1" + "0" * 25, "9" * 5000, "1e400", "nan", "-inf", "", "x" * 5000])
def test_absurd_numbers_are_refused_at_once(command: Command, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import binderclip.models

    def never(*_: Any, **__: Any) -> None:
        raise AssertionError("work was begun")

    for name in ("load", "load_encoder"):
        monkeypatch.setattr(binderclip.models, name, never)
    for verb, option, _ in numbers(int, float):
        needed = {"classify": ["x"], "evaluate": ["small"], "adapt": ["x"], "anomaly": ["x"], "spikes": ["x"],
                  "descriptions": ["x"], "segment": ["x"]}.get(verb[0], [])  # fmt: skip
        needed = {("search", "index"): ["x"], ("search", "query"): ["x"]}.get(verb, needed)
        done = command(*verb, *needed, f"{option}={value}")
        assert done.code == 2, (verb, option)
        assert option in done.err, (verb, option)
        assert len(done.err) < 600, (verb, option)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("classify", "a.png", "-l", "cat", "--views", "tiles=99999"), "tiles"),
        (("classify", "a.png", "-l", "cat", "--views", "tiles=" + "9" * 5000), "tiles"),
        (("classify", "a.png", "-l", "cat", "--views", "tiles=\u00b2"), "is unknown"),
        (("classify", "a.png", "-l", "cat", "--box", "nan,0,9,9", "--mark", "crop"), "must be x0,y0,x1,y1"),
        (("anomaly", ".", "--scales", "2,99999999999999999999"), "from 1 to 100"),
        (("anomaly", ".", "--scales", "0"), "from 1 to 100"),
        (("reproduce", "p162", "--seeds", "-1"), "whole numbers from 0"),
        (("reproduce", "p162", "--seeds", ",".join(map(str, range(5000)))), "at most 100"),
        (("reproduce", "p162", "--seeds", "1" + "0" * 25), "whole numbers from 0"),
        (("reproduce", "p162", "--seeds", "1,1"), "names a seed twice"),
        (("evaluate", "small", "--data", "x-{0..99999999999}.tar"), "more than 1,000,000 shards"),
        (("evaluate", "small", "--data", "x-{0..9}" * 12 + ".tar"), "more than 1,000,000 shards"),
        (("evaluate", "small", "--data", "x-{" + "9" * 5000 + "..1}.tar"), "more than 1,000,000 shards"),
        (("evaluate", "small", "--data", "x-{a,b}" * 40 + ".tar"), "more than 1,000,000 shards"),
        (("evaluate", "small", "--data", "x-{0..3.tar"), "no list of shards"),
        (("train", "scratch-64", "--check", "--set", "data.\u00b2.limit=3"), "is not one of"),
        (("train", "scratch-64", "--check", "--set", "stage.\u00b2.lr=3"), "there is no stage"),
        (("segment", "a.png", "-l", "cat", "--set", "windows.\u00b2=3"), "--set windows"),
        # The verb is not begun where its output cannot be kept.
        (("reproduce", "p162", "--out", "a.png"), "--out a.png is a file"),
        (("reproduce", "p162", "--out", "a.png/deep/er"), "which is no folder"),
        (("adapt", ".", "--out", "a.png/deep"), "which is no folder"),
        (("anomaly", ".", "--out", "a.png"), "--out a.png is a file"),
        (("anomaly", ".", "--out", "nowhere"), "a link to what is not there"),
        (("heads", "small", "--out", "a.png/x.html"), "there is no folder a.png"),
        (("evaluate", "small", "--out", "pipe"), "a named pipe that nobody reads"),
        (("classify", "a.png", "-l", "x" * 5000 + "," + "x" * 5000), "more than once"),
        (("classify", "y" * 5000, "-l", "cat"), "File name too long"),
        (("classify", "a\0b", "-l", "cat"), "NUL"),
        (("z" * 5000,), "No such command"),
        (("classify", "--" + "z" * 5000), "No such option"),
        (("cache", "info", *["extra"] * 2000), "unexpected extra"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, tuple) else "",
)
def test_hostile_words_cost_one_short_line(
    command: Command, tmp_path: Path, words: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from binderclip import studies

    monkeypatch.setattr(studies, "run_study", lambda *_: pytest.fail("the study was begun"))
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    (tmp_path / "nowhere").symlink_to("gone")
    os.mkfifo(tmp_path / "pipe")
    done = command(*words)
    assert done.code == 2, done.err
    assert said in " ".join(done.err.replace("\u2502", " ").split())
    assert len(done.err) < 600


def test_a_named_pipe_with_a_reader_is_written(command: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    done = command("descriptions", "animals", "--out", "pipe")
    assert done.code == 0, done.err
    assert b'"classes"' in os.read(reader, 1 << 16)
    os.close(reader)


def test_an_index_of_nothing_readable_is_an_error(command: Command, tmp_path: Path) -> None:
    (tmp_path / "junk").mkdir()
    for name in ("a.png", "b.jpg"):
        (tmp_path / "junk" / name).write_bytes(b"junk" * 100)
    for words in (("search", "index", "junk"), ("search", "index", "junk", "--json")):
        done = command(*words)
        assert done.code == 1
        assert done.out == ""
        assert "none of 2 pictures can be used: junk/a.png: not an image" in done.err


def test_names_that_the_index_cannot_hold_are_named(command: Command, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("good.png", os.fsdecode(b"caf\xe9.png")):
        Image.new("RGB", (16, 16), "red").save(tmp_path / "photos" / name)
    found = command("search", "index", "photos", "--json").json()
    assert (found["images"], found["added"]) == (1, 1)
    done = command("search", "index", "photos")
    assert done.code == 0
    assert "caf\\xe9.png: its name is not UTF-8" in done.err
    os.remove(tmp_path / "photos" / "good.png")
    assert command("search", "index", "photos", "--rebuild").code == 1


def test_a_layer_that_is_no_number_is_refused_by_methods_that_count(command: Command, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(tmp_path / "a.png")
    done = command("explain", "a.png", "-l", "cat", "--compare", "--layer", "image.last")
    assert done.code == 2
    assert "layer is 'image.last'; it is a whole number or a list" in done.err


def test_ctrl_c_is_one_line_whenever_it_comes(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    def misread(*_: Any, **__: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise RuntimeError("Error calling __set_name__")  # noqa: B904

    for stop in (interrupted, misread):
        monkeypatch.setattr("binderclip.papers.papers", stop)
        done = command("papers", "zclip")
        assert (done.code, done.out, done.err) == (130, "", "error: interrupted\n")


@pytest.mark.parametrize("when", ["typer", "rich.console", "binderclip.cli.verbs.papers"])
def test_ctrl_c_while_the_command_line_is_imported(when: str) -> None:
    # The signal comes exactly when this module is looked for.
    script = f"""
import os, signal, sys
class Stop:
    def find_spec(self, name, *_):
        if name == {when!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Stop())
from binderclip.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script, "papers"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_a_reader_that_has_gone_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for words in (["papers"], ["papers", "--json"]):
        running = subprocess.Popen([PROGRAM, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
        assert running.wait(60) == 0


def test_an_error_without_a_reader_keeps_its_code() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run([PROGRAM, "papers", "xyzzy"], stdout=subprocess.PIPE, stderr=write, timeout=60)
    os.close(write)
    assert done.returncode == 2


def test_the_console_stays_plain() -> None:
    assert output.console.render_str("[red]:cat:[/]").plain == "[red]:cat:[/]"
