"""Every argument of every verb: none may be empty, and what is written is annotated as such."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer.main

from binderclip import cli
from binderclip.cli.shared.verb import VerbApp, VerbCommand, output_options
from binderclip.errors import UsageError
from binderclip.tasks.files.outputs import OUTPUT

Command = Callable[..., Any]

READ = frozenset(
    ["again", "against", "as_", "ask", "ask_model", "assign", "attributes", "background", "box", "boxes",
     "bright", "by", "clip", "context", "crop_from", "dark", "data", "descriptions", "detector", "device",
     "distance", "dtype", "embeddings", "encode_rate", "enhancer", "eps", "evaluate", "example", "folder",
     "folders", "from_", "grid", "groups", "head", "hold_out", "image", "images", "kept", "label", "labels", "layer",
     "mark", "method", "methods", "model", "name", "names", "negatives", "normal", "null", "outside", "pair", "pairs",
     "paper", "parallel", "point", "pool", "positive", "preset", "prompt", "proposals", "ray", "recipe",
     "reference", "run", "scales", "scores", "scribble", "seeds", "segmenter", "sentence", "set", "sound", "split",
     "start", "state", "target", "task", "templates", "text_or_image", "texts", "threshold", "to", "tracer", "train",
     "transform", "url", "views", "weights", "words"]
)  # fmt: skip
"""Parameters that are words, or files that are read, whatever the verb."""
READ_THERE = {
    ("atlas",): {"clustering", "layout"},
    ("classify",): {"against", "corrected"},
    ("clean",): {"of"},
    ("click",): {"objects"},
    ("compress",): {"parts", "sides", "template"},
    ("draw",): {"judge", "text"},
    ("duplicates",): {"keep"},
    ("edges",): {"truth"},
    ("edit",): {"new_word", "source", "word"},
    ("erase",): {"adapter", "background_point", "image_model", "mask"},
    ("foveate",): {"at"},
    ("generate",): {"control_image", "controlnet", "from_folder", "personal", "size"},
    ("inpaint",): {"mask", "personal", "text"},
    ("interpolate",): {"first", "second"},
    ("locate",): {"masks"},
    ("personalize",): {"class_name", "init", "token"},
    ("reconstruct",): {"slices", "spacing"},
    ("search", "query"): {"index", "minus"},
    ("segment-example",): {"mask"},
}
"""The same of one verb; elsewhere these names are those of results."""


def commands() -> Iterator[tuple[tuple[str, ...], Any]]:
    def walk(command: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if hasattr(command, "list_commands"):
            for name in command.list_commands(None):
                yield from walk(command.get_command(None, name), (*path, name))
        else:
            yield path, command

    return walk(typer.main.get_command(cli.app), ())


def takes_text(hint: Any) -> bool:
    if typing.get_origin(hint) is typing.Literal:
        return False
    return hint in (str, Path) or any(takes_text(inner) for inner in typing.get_args(hint))


COMMANDS = dict(commands())


@pytest.mark.parametrize("verb", COMMANDS, ids=" ".join)
def test_what_a_verb_writes_is_annotated_as_output(verb: tuple[str, ...]) -> None:
    command = COMMANDS[verb]
    assert isinstance(command, VerbCommand)
    hints = typing.get_type_hints(inspect.unwrap(command.callback))
    texts = {name for name, hint in hints.items() if name != "return" and takes_text(hint)}
    outputs = output_options(command)
    # Whoever adds an option decides: OUTPUT, or one of the names above.
    assert texts - outputs - READ - READ_THERE.get(verb, set()) == set()
    assert not outputs & READ
    assert ("overwrite" in {param.name for param in command.params}) == bool(outputs)


@pytest.mark.parametrize("verb", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("empty", ["", " \t"])
def test_no_argument_of_any_verb_is_empty(verb: tuple[str, ...], empty: str, command: Command) -> None:
    params = [param for param in COMMANDS[verb].params if not getattr(param, "is_flag", False)]
    arguments = [param for param in params if param.param_type_name == "argument"]
    assert arguments or params or verb in (("info",), ("cache", "info"), ("cache", "clear"))
    for row, param in enumerate(arguments):
        done = command(*verb, *["x"] * row, empty)
        assert (done.code, f"{param.name.upper()} is empty" in done.err) == (2, True), done.err
    for param in params:
        if param.param_type_name == "option":
            name = max(param.opts, key=len)
            for words in ([f"{name}={empty}"] if param.nargs == 1 else [], [name, *["x"] * (param.nargs - 1), empty]):
                if words:
                    done = command(*verb, *words)
                    assert (done.code, f"{name} is empty" in done.err) == (2, True), done.err


def test_a_default_that_is_empty_is_none_of_its_matter(tmp_path: Path) -> None:
    seen = []

    def verb(words: str = "", out: Annotated[Path | None, typer.Option(), OUTPUT] = None) -> None:
        seen.append((words, out))

    app = VerbApp()
    app.command()(verb)
    command = typer.main.get_command(app)
    command.main([], standalone_mode=False)
    command.main(["--words", "a", "--out", "x", "--overwrite"], standalone_mode=False)
    assert seen == [("", None), ("a", Path("x"))]
    with pytest.raises(UsageError, match="--words is empty: give it a value, or leave it out"):
        command.main(["--words="], standalone_mode=False)


def test_two_results_do_not_share_a_file(command: Command, tmp_path: Path) -> None:
    (tmp_path / "link.png").symlink_to("t.png")
    for other in ("t.png", "./t.png", "link.png"):
        done = command("trace", "x.png", "--from", "1,1", "--to", "2,2", "--overlay", "t.png", "--mask", other)
        assert (done.code, f"--overlay and --mask both name {other}" in done.err) == (2, True), done.err
