"""The command of a task: its options are made from the fields of the request."""

from __future__ import annotations

import functools
import inspect
import operator
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import annotated_types
import typer
from pydantic.fields import FieldInfo

from binderclip.cli.shared.options import Json, finite
from binderclip.cli.shared.output import print_result
from binderclip.cli.shared.progress import stages
from binderclip.documents import parse_json
from binderclip.errors import UsageError
from binderclip.tasks.files.outputs import OUTPUT
from binderclip.tasks.request import Option, Request, VerbTask, option_of


def add_task(app: typer.Typer, task: VerbTask[Any, Any], show: Callable[[Any, bool], None] = print_result) -> None:
    """Add a task to an application as a verb, with `--json` and `--from`.

    Args:
        app: a `VerbApp`; of the group where the verb has two words.
        task: whose requests the options make.
        show: prints a result; called with it and whether `--json` was given.
    """
    request: type[Request] = task.request

    def verb(**given: Any) -> None:
        json = given.pop("json")
        given.pop("from_")
        asked = request(**_values(request, given))
        with stages(f"{request.task}: looking at what was given"):
            result = task.run(asked)
        if result.leads:
            show(result, json)
        raise typer.Exit(result.exit_code)

    in_panel = {name: bool(option_of(field).panel) for name, field in request.model_fields.items()}
    fields = [_parameter(request, name) for name in request.model_fields if not in_panel[name]]
    panelled = [_parameter(request, name) for name in request.model_fields if in_panel[name]]
    own = max(row for row, each in enumerate(fields) if each.name not in _LAST) + 1
    source = inspect.Parameter("from_", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_from(request))
    shown = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Json)
    parameters = [*fields[:own], source, *fields[own:], shown, *panelled]
    # Whoever checks annotations at run time has wrapped it, and readers of a signature look at what is inside.
    command: Any = inspect.unwrap(verb)
    command.__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {each.name: each.annotation for each in parameters}
    command.__name__, command.__doc__ = request.task.replace(" ", "_"), inspect.getdoc(request)
    command.task = task
    app.command(request.task.split()[-1])(command)


_LAST = ("device", "dtype", "batch_size")
"""Fields that all verbs share; where they stand at the end, `--from` stands before them."""


def _from(request: type[Request]) -> Any:
    """The option whose document stands for the words of a request."""
    words = typer.Option(
        request.document_option, metavar="REQUEST.json", help="Take what is asked from what `--json` printed, or the "
        "workbench gave; options beside it win.",
    )  # fmt: skip
    return Annotated[Path | None, words]


def refuse_moved(args: Sequence[str], request: type[Request]) -> None:
    """Say which verb does what an option of this one did.

    Args:
        args: words behind the verb.
        request: of the verb.

    Raises:
        UsageError: one of them is such an option.
    """
    for word in args[: args.index("--")] if "--" in args else args:
        if other := request.moved.get(option := word.partition("=")[0]):
            raise UsageError(f"{option} is no option of {request.task} any more: a verb of its own does that, {other}")


def with_request(args: list[str], task: VerbTask[Any, Any]) -> list[str]:
    """Words of a command line with those of the request that `--from` names in front of the others.

    Args:
        args: words behind the verb.
        task: whose request it is.

    Raises:
        UsageError: no such file, no JSON, or a request that is wrong.
    """
    option = task.request.document_option
    at = next((row for row, word in enumerate(args) if word == option or word.startswith(f"{option}=")), None)
    if at is None:
        return args
    path = args[at].partition("=")[2] if "=" in args[at] else (args[at + 1] if at + 1 < len(args) else "")
    if not path.strip():
        return args  # which is refused as every option without a value is
    rest = args[:at] + args[at + (1 if "=" in args[at] else 2) :]
    place = Path(path)
    if not place.is_file():
        raise UsageError(f"{option} {path}: there is no file {path}")
    try:
        document = parse_json(place.read_bytes())
    except ValueError as error:
        raise UsageError(f"{option} {path}: not a JSON document ({error})") from error
    words: list[str] = task.request.from_document(document).argv()
    # Behind `--` there are no options, so those beside the document go before it.
    return [*words[: words.index("--")], *rest, *words[words.index("--") :]] if "--" in words else [*words, *rest]


def _values(request: type[Request], given: dict[str, Any]) -> dict[str, Any]:
    """Words of the command line as values of fields."""
    values: dict[str, Any] = {}
    for name, value in given.items():
        field = request.model_fields[name]
        if value is None and not _optional(field.annotation):
            continue  # an option that may be repeated and was not given at all
        option, parse = option_of(field), option_of(field).parse
        if parse and option.each:
            values[name] = [parse(each) for each in value]
        else:
            values[name] = parse(value) if parse and isinstance(value, str) else value
    return values


def _parameter(request: type[Request], name: str) -> inspect.Parameter:
    """A field as a parameter of Typer."""
    field = request.model_fields[name]
    option = option_of(field)
    default = inspect.Parameter.empty if request.required(name) else field.get_default(call_default_factory=True)
    kind = _plain(field.annotation)
    if option.each:
        kind, default = (list[str], default) if request.required(name) else (list[str] | None, None)
    elif option.parse:
        kind = str | None if _optional(kind) else str
        # A callable default would be called; what people write stands for it.
        if default is not None and default is not inspect.Parameter.empty:
            default = option.default or option.write(default)
    elif default == []:
        kind, default = kind | None, None
    words = _words_of(option, field, show_default=not _optional(kind))
    annotation: Any = Annotated[kind, words, OUTPUT] if option.output else Annotated[kind, words]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _words_of(option: Option, field: FieldInfo, *, show_default: bool) -> Any:
    """The option or argument of Typer, which has all of a field but its type and default."""
    more: dict[str, Any] = {
        {annotated_types.Ge: "min", annotated_types.Le: "max"}[type(each)]: getattr(each, type(each).__name__.lower())
        for each in field.metadata
        if isinstance(each, (annotated_types.Ge, annotated_types.Le))
    }
    if float in (field.annotation, *typing.get_args(field.annotation)) and option.parse is None:
        more["callback"] = finite
    more |= {"help": option.help, "metavar": option.metavar or None, "show_default": show_default}
    if option.positional:
        return typer.Argument(**more)
    return typer.Option(*option.flags, rich_help_panel=option.panel or None, **more)


def _optional(annotation: Any) -> bool:
    """Whether None is a value."""
    return _is_union(annotation) and type(None) in typing.get_args(annotation)


def _plain(annotation: Any) -> Any:
    """The type alone: of `Labels | None` without what `Labels` is annotated with."""
    if _is_union(annotation):
        return functools.reduce(operator.or_, map(_plain, typing.get_args(annotation)))
    return annotation.__origin__ if hasattr(annotation, "__metadata__") else annotation


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)
