"""The command of a task: its options are made from the fields of the request."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import annotated_types
import typer

from binderclip.cli.shared.options import Json
from binderclip.cli.shared.progress import stages
from binderclip.documents import parse_json
from binderclip.errors import UsageError
from binderclip.tasks.files.outputs import OUTPUT
from binderclip.tasks.request import Request, VerbTask, option_of

FROM = "--from"
"""The option whose document stands for the words of a request."""


def add_task(app: typer.Typer, task: VerbTask[Any, Any], show: Callable[[Any, bool], None]) -> None:
    """Add a task to an application as a verb, with `--json` and `--from`.

    Args:
        app: a `VerbApp`.
        task: whose requests the options make.
        show: prints a result; called with it and whether `--json` was given.
    """
    request: type[Request] = task.request

    def verb(**given: Any) -> None:
        json = given.pop("json")
        given.pop("from_")
        asked = request(**{name: _parsed(request, name, value) for name, value in given.items()})
        with stages(f"{request.task}: looking at what was given"):
            result = task.run(asked)
        show(result, json)
        raise typer.Exit(0 if result.complete else 1)

    fields = [_parameter(request, name) for name in request.model_fields]
    before = [each for each in fields if each.name not in _LAST]
    last = [each for each in fields if each.name in _LAST]
    source = inspect.Parameter("from_", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_From)
    shown = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    parameters = [*before, source, *last, shown]
    # Whoever checks annotations at run time has wrapped it, and readers of a signature look at what is inside.
    command: Any = inspect.unwrap(verb)
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__name__, command.__doc__ = request.task, inspect.getdoc(request)
    command.task = task
    app.command(request.task)(command)


_LAST = ("device", "dtype", "batch_size")
"""Fields that all verbs share, which stand at the end of their help."""
_From = Annotated[
    Path | None,
    typer.Option(
        FROM, metavar="REQUEST.json", help="Take what is asked from what `--json` printed, or the workbench gave; "
        "options beside it win.",
    ),
]  # fmt: skip


def with_request(args: list[str], task: VerbTask[Any, Any]) -> list[str]:
    """Words of a command line with those of the request that `--from` names in front of the others.

    Args:
        args: words behind the verb.
        task: whose request it is.

    Raises:
        UsageError: no such file, no JSON, or a request that is wrong.
    """
    at = next((row for row, word in enumerate(args) if word == FROM or word.startswith(f"{FROM}=")), None)
    if at is None:
        return args
    path = args[at].partition("=")[2] if "=" in args[at] else (args[at + 1] if at + 1 < len(args) else "")
    if not path.strip():
        return args  # which is refused as every option without a value is
    rest = args[:at] + args[at + (1 if "=" in args[at] else 2) :]
    place = Path(path)
    if not place.is_file():
        raise UsageError(f"{FROM} {path}: there is no file {path}")
    try:
        document = parse_json(place.read_bytes())
    except ValueError as error:
        raise UsageError(f"{FROM} {path}: not a JSON document ({error})") from error
    words: list[str] = task.request.from_document(document).words()
    # Behind `--` there are no options, so those beside the document go before it.
    return [*words[: words.index("--")], *rest, *words[words.index("--") :]] if "--" in words else [*words, *rest]


def _parsed(request: type[Request], name: str, value: Any) -> Any:
    """A word of the command line as the value of a field."""
    parse = option_of(request.model_fields[name]).parse
    return parse(value) if parse and isinstance(value, str) else list(value) if isinstance(value, tuple) else value


def _parameter(request: type[Request], name: str) -> inspect.Parameter:
    """A field as a parameter of Typer."""
    field = request.model_fields[name]
    option = option_of(field)
    kind: Any = str if option.parse else field.annotation
    bounds = {
        {annotated_types.Ge: "min", annotated_types.Le: "max"}[type(each)]: getattr(each, type(each).__name__.lower())
        for each in field.metadata
        if isinstance(each, (annotated_types.Ge, annotated_types.Le))
    }
    # A callable default would be called; what people write stands for it.
    default = ... if request.required(name) else field.get_default(call_default_factory=True)
    if option.default:
        default = option.default
    if option.positional:
        told: Any = typer.Argument(help=option.help, **bounds)
    else:
        shown = not _optional(field.annotation)
        told = typer.Option(*option.flags, help=option.help, show_default=shown, **bounds)
    annotation: Any = Annotated[kind, told, OUTPUT] if option.output else Annotated[kind, told]
    empty = inspect.Parameter.empty
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=empty if default is ... else default, annotation=annotation
    )


def _optional(annotation: Any) -> bool:
    """Whether None is a value."""
    return typing.get_origin(annotation) in (typing.Union, types.UnionType) and type(None) in typing.get_args(
        annotation
    )
