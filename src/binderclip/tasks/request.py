"""What a task is asked, and the task itself: fields are written once, and every face is made from them.

A request is a pydantic model. Each field says by an `Option` how it is written on a command line and what it is for;
ranges and defaults are pydantic's. From the same fields come the options of the verb with their help, the controls of
the workbench, the JSON document of `--from`, and the lines of shell and Python that give a result again.
"""

from __future__ import annotations

import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from binderclip.errors import UsageError
from binderclip.tasks.events import Listener, StopToken, listening
from binderclip.tasks.files.outputs import leaving_no_empty_folder

__all__ = ["Option", "Request", "VerbResult", "VerbTask", "label_of", "option_of"]

P = ParamSpec("P")
S = TypeVar("S")
TASK = "task"
"""Key of a document that names its task."""


@dataclass(frozen=True)
class Option:
    """How a field is written on a command line, and what it is for.

    Attributes:
        help: one sentence, in Markdown.
        flags: of the option, such as `("--out", "-o")`; empty for `--name` after the field.
        positional: whether it has no flag.
        output: whether it names a file or folder that is written.
        panel: of the help, where it does not stand among the others.
        metavar: what the help calls the value; empty for its type.
        parse: text of the command line -> value, where that is more than pydantic does.
        write: value -> text of the command line, the inverse.
        each: whether these two are of one value of an option that is repeated for several.
        default: the default as people write it, where its own text is no good.
        choices: the values there are, asked when they are needed; no other is taken.
        label: on a page; empty for the name.
    """

    help: str
    flags: tuple[str, ...] = ()
    positional: bool = False
    output: bool = False
    panel: str = ""
    metavar: str = ""
    parse: Callable[[str], Any] | None = None
    write: Callable[[Any], str] = str
    each: bool = False
    default: str = ""
    choices: Callable[[], tuple[str, ...]] | None = None
    label: str = ""

    def flag(self, name: str) -> str:
        """The long spelling of a field, or what stands for it in a usage line."""
        if self.positional:
            return name.upper()
        return max(self.flags, key=len) if self.flags else f"--{name.replace('_', '-')}"


def option_of(field: FieldInfo) -> Option:
    """The `Option` among a field's annotations; of `Labels | None` that of `Labels`."""
    inner = (each for hint in get_args(field.annotation) for each in getattr(hint, "__metadata__", ()))
    return next(each for each in (*field.metadata, *inner) if isinstance(each, Option))


def label_of(request: type[Request], name: str) -> str:
    """What pages call a field."""
    return option_of(request.model_fields[name]).label or name.replace("_", " ").capitalize()


class Request(BaseModel):
    """Base of every request: unknown fields are refused, and what is wrong is a `UsageError` that names the field.

    A child's docstring is the help of its verb.
    """

    # A range alone lets NaN through.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)
    task: ClassVar[str]
    """The verb, or two words such as `search index`."""
    moved: ClassVar[Mapping[str, str]] = {}
    """Options that the verb had once -> the verb that does it now, which is said where one is given."""
    document_option: ClassVar[str] = "--from"
    """The option that names a document of such a request; another one where `--from` is a field's."""

    if not TYPE_CHECKING:  # checkers read the fields

        def __init__(self, **fields: Any) -> None:
            for name, value in fields.items():
                if name in type(self).model_fields:
                    _refuse_empty(option_of(type(self).model_fields[name]).flag(name), value)
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise UsageError(self._problem(error)) from None

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, fields: Any) -> Any:
        """Paths as text: requests are plain values."""
        return {name: _text_of_paths(value) for name, value in fields.items()} if isinstance(fields, dict) else fields

    @model_validator(mode="after")
    def _known(self) -> Request:
        """Refuse what is none of the choices."""
        for name, value in self.given().items():
            option = option_of(type(self).model_fields[name])
            if option.choices is None or value is None:
                continue
            known = option.choices()
            for each in value if isinstance(value, list) else [value]:
                if each not in known:
                    raise UsageError(f"{option.flag(name)} {each!r} is unknown: one of {', '.join(known)}")
        return self

    @classmethod
    def _problem(cls, error: ValidationError) -> str:
        first = error.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), UsageError):
            return str(cause)
        name = str(first["loc"][0]) if first["loc"] else cls.task
        if first["type"] == "extra_forbidden":
            return f"{cls.task} has no field {name!r}: there are {', '.join(cls.model_fields)}"
        if first["type"] == "missing":
            return f"{cls.task} needs {name}"
        where = option_of(cls.model_fields[name]).flag(name) if name in cls.model_fields else name
        return f"{where} {first['input']!r}: {first['msg'][:1].lower()}{first['msg'][1:]}"

    @classmethod
    def from_document(cls, document: Any) -> Any:
        """The request of a JSON document: one of `as_document`, or what `--json` prints, which holds one.

        Raises:
            UsageError: another task's, or fields that are wrong.
        """
        inner = document.get("request", document) if isinstance(document, Mapping) else document
        if not isinstance(inner, Mapping):
            raise UsageError(f"a request of {cls.task} is one JSON object, such as {{{cls.task!r}: ...}}")
        fields = dict(inner)
        if (named := fields.pop(TASK, cls.task)) != cls.task:
            raise UsageError(f"this is a request of {named!r}, not of {cls.task}")
        return cls(**fields)

    def given(self) -> dict[str, Any]:
        """The fields that are not their defaults."""
        fields = type(self).model_fields
        return {
            name: getattr(self, name)
            for name, field in fields.items()
            if getattr(self, name) != field.get_default(call_default_factory=True)
        }

    def replaced(self, **fields: Any) -> Any:
        """The same request with other values of some fields.

        Raises:
            UsageError: one of them is wrong.
        """
        return type(self)(**{**self.given(), **fields})

    def as_document(self) -> dict[str, Any]:
        """Plain values of what is not a default, for JSON."""
        plain = self.model_dump(mode="json", include=set(self.given()))
        return {TASK: self.task, **plain}

    def argv(self) -> list[str]:
        """The words of the command line that ask the same."""
        options: list[str] = []
        last: list[str] = []
        for name, value in self.given().items():
            option = option_of(type(self).model_fields[name])
            several = isinstance(value, (list, tuple)) and (option.each or option.parse is None)
            values = value if several else [value]
            if option.positional:
                last += map(option.write, values)
            elif isinstance(value, bool):
                options.append(option.flag(name) if value else option.flag(name).replace("--", "--no-", 1))
            elif isinstance(value, tuple) and option.parse is None:
                options += [option.flag(name), *map(option.write, values)]
            else:
                options += [word for each in values for word in (option.flag(name), option.write(each))]
        # A word that begins with a dash would be an option.
        return [*options, "--", *last] if any(word.startswith("-") for word in last) else [*last, *options]

    def shell(self) -> str:
        """The line of shell that asks the same."""
        return shlex.join(["binderclip", *self.task.split(), *self.argv()])

    def python(self) -> str:
        """The line of Python that asks the same, and prints what comes of it."""
        fields = self.model_dump(mode="json", include=set(self.given()))
        given = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        name = self.task.replace(" ", "_").replace("-", "_")
        return f"from binderclip.tasks import {name}; print({name}({given}).as_dict())"

    @classmethod
    def required(cls, name: str) -> bool:
        """Whether a field has no default."""
        return cls.model_fields[name].default is PydanticUndefined and cls.model_fields[name].default_factory is None


def _text_of_paths(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_text_of_paths, value))
    return str(value) if isinstance(value, Path) else value


def _refuse_empty(flag: str, value: Any) -> None:
    """Blanks alone are refused on a command line as well; as a path they would be the current folder."""
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(each, str) and not each.strip():
            raise UsageError(f"{flag} is empty: give it a value, or leave it out")


class VerbResult(ABC):
    """What a task gives back, whatever it is: a child is a dataclass with these as fields or properties.

    What is described here is described again only where a child has more to say.

    Attributes:
        request: what was asked.
        title: of the table.
        complete: whether every picture that was named one by one could be used.
        leads: whether this process prints it, where several do the work together.
        whole: whether a person is shown every row, as none is in a file.
    """

    whole: ClassVar[bool] = False
    if TYPE_CHECKING:  # in a dataclass a field, elsewhere a property

        @property
        def request(self) -> Any: ...
        @property
        def title(self) -> str: ...
        @property
        def complete(self) -> bool: ...
        @property
        def leads(self) -> bool: ...
    else:
        complete = leads = True

    @property
    def exit_code(self) -> int:
        """Of the command line."""
        return int(not self.complete)

    @abstractmethod
    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture; no row where there is nothing to show."""

    def more_tables(self) -> list[tuple[str, tuple[str, ...], list[tuple[Any, ...]]]]:
        """Title, columns and rows of what else was measured."""
        return []

    @abstractmethod
    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""

    def conclusion(self) -> list[str]:
        """What a person should take away, a sentence each."""
        return []

    def remarks(self) -> list[str]:
        """What to know of the result, a sentence each."""
        return []

    def places(self) -> list[str]:
        """Where the files are, a line each."""
        return []


class ReportedResult(VerbResult):
    """A result with a page, `request.out`, unless `request.report` is off."""

    @property
    def report(self) -> Path | None:
        """The page, where one was written."""
        return Path(self.request.out) if self.request.report else None

    def places(self) -> list[str]:
        return [f"report {self.report}"] if self.report else []


R = TypeVar("R", bound=Request)


class _RequestDoc:
    """The docstring of a task is that of its request, which is the help of the verb."""

    def __init__(self, own: str | None) -> None:
        self.own = own

    def __get__(self, task: VerbTask[Any, Any] | None, owner: type) -> str | None:
        return self.own if task is None else task.request.__doc__


class VerbTask(Generic[P, S]):
    """A task as a function: `attack(images=["cat.jpg"], labels=["a cat", "a dog"])`.

    Args:
        request: the class of its requests, whose fields are the arguments, by name.
        run: from a request to its result.
    """

    __doc__: Any = _RequestDoc(__doc__)

    def __init__(self, request: Callable[P, R], run: Callable[[R], S]) -> None:
        self._request: Callable[[], Any] = lambda: request
        self._run: Callable[[], Any] = lambda: run

    @classmethod
    def later(cls, request: Callable[[], Callable[P, R]], run: Callable[[], Callable[[R], S]]) -> VerbTask[P, S]:
        """A task whose two parts are imported when they are first used.

        Args:
            request: gives the class of its requests.
            run: gives what carries one out.
        """
        task = cls.__new__(cls)
        task._request, task._run = request, run
        return task

    @property
    def request(self) -> Any:
        """The class of its requests."""
        return self._request()

    def __call__(self, *args: P.args, **fields: P.kwargs) -> S:
        """Ask and carry out.

        Raises:
            UsageError: a field that is wrong.
        """
        return self.run(self.request(*args, **fields))

    def run(self, request: Any, *, progress: Listener | None = None, stop: StopToken | None = None) -> S:
        """Carry out a request; where that fails, no folder that it made is left empty.

        Args:
            request: of this task.
            progress: is given the events (`binderclip.tasks.events`).
            stop: by which another thread ends it, at the next event.

        Raises:
            Stopped: it was ended. Others: as the task says.
        """
        with listening(progress, stop), leaving_no_empty_folder():
            result: S = self._run()(request)
            return result
