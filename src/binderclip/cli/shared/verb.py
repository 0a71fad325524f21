"""The Typer application of a verb: no argument is empty, and outputs are held against what the call reads."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from binderclip.cli.shared.progress import Terminal
from binderclip.cli.shared.task_command import refuse_moved, with_request
from binderclip.errors import UsageError
from binderclip.tasks.events import listening
from binderclip.tasks.files.outputs import Output, VerbCall, calling, named_paths, real_path

Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace files that stand where results go, also those that binderclip did not write; never one that "
        "is read.",
    ),
]


_LAST = ("from_", "model", "device", "dtype", "batch_size", "json")
"""Options that all verbs share, which stand at the end of their help."""


class VerbCommand(typer.core.TyperCommand):
    """A verb whose words have been looked at before any of its own code runs."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # Wrapped, a function keeps its attributes; what is inside a check of annotations does not have them.
        task = getattr(self.callback, "task", None)
        if task is not None:
            refuse_moved(args, task.request)
            args = with_request(args, task)
        if not ctx.resilient_parsing:
            given, _, _ = self.make_parser(ctx).parse_args(args=list(args))
            for param in self.params:
                _refuse_empty(param, given.get(str(param.name)))
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        outputs = output_options(self)
        places: dict[Path, str] = {}
        for param in self.params:
            value = ctx.params.get(param.name)
            if param.name in outputs and value is not None and "://" not in str(value):
                place = real_path(value)
                if other := places.get(place):
                    raise UsageError(f"{other} and {param.opts[0]} both name {value}: give each result its own file")
                places[place] = param.opts[0]
        inputs = named_paths(value for name, value in ctx.params.items() if name not in outputs)
        call, terminal = VerbCall(inputs, frozenset(places), bool(ctx.params.get("overwrite"))), Terminal()
        try:
            with calling(call), listening(terminal):
                return super().invoke(ctx)
        finally:
            terminal.end()


def _refuse_empty(param: Any, value: Any) -> None:
    """Refuse an argument or option without a character to be seen: most often a variable of the shell that is unset."""
    words = value if isinstance(value, (list, tuple)) else [value]
    for word in words:
        if isinstance(word, (list, tuple)):
            _refuse_empty(param, word)
        elif isinstance(word, str) and not word.strip():
            argument = param.param_type_name == "argument"
            name = str(param.name).upper() if argument else max(param.opts, key=len)
            right = "give it a value" if argument or param.required else "give it a value, or leave it out"
            raise UsageError(f"{name} is empty: {right} (is a variable of the shell unset?)")


def output_options(command: Any) -> frozenset[str]:
    """Names of the parameters of a verb that are annotated as `Output`."""
    hints = typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    return frozenset(name for name, hint in hints.items() if any(isinstance(m, Output) for m in metadata_of(hint)))


def metadata_of(hint: Any) -> tuple[Any, ...]:
    """What stands in an `Annotated`, also in one that is an alternative of a union."""
    metadata = tuple(getattr(hint, "__metadata__", ()))
    for inner in typing.get_args(hint):
        metadata += metadata_of(inner)
    return metadata


class VerbApp(typer.Typer):
    """A Typer application whose commands are `VerbCommand`s; those that write take `--overwrite`."""

    def command(self, *args: Any, **options: Any) -> Callable[[Any], Any]:
        add = super().command(*args, **{"cls": VerbCommand, **options})

        def registered(function: Any) -> Any:
            add(_with_overwrite(function))
            return function

        return registered


def _with_overwrite(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with one more option, which the rule reads and the function never sees."""
    signature = inspect.signature(function, eval_str=True)
    if not any(isinstance(m, Output) for p in signature.parameters.values() for m in metadata_of(p.annotation)):
        return function

    @functools.wraps(function)
    def verb(overwrite: bool = False, **given: Any) -> Any:
        return function(**given)

    option = inspect.Parameter("overwrite", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Overwrite)
    parameters = list(signature.parameters.values())
    # In some verbs the model comes first.
    own = [row for row, each in enumerate(parameters) if each.name not in _LAST]
    at = own[-1] + 1 if own else 0
    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    verb.__signature__ = signature.replace(parameters=[*parameters[:at], option, *parameters[at:]])  # type: ignore[attr-defined]
    verb.__annotations__ = {each.name: each.annotation for each in [*parameters, option]}
    return verb
