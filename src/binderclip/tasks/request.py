"""What a task is asked, and the task itself: fields are written once, and every face is made from them.

A request is a pydantic model. Each field says by an `Option` how it is written on a command line and what it is for;
ranges and defaults are pydantic's. From the same fields come the options of the verb with their help, the controls of
the workbench, the JSON document of `--from`, and the lines of shell and Python that give a result again.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from binderclip.errors import UsageError
from binderclip.tasks.events import Listener, StopToken, listening

__all__ = ["Option", "Request", "VerbResult", "VerbTask", "option_of"]

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
        parse: text of the command line -> value, where that is more than pydantic does.
        write: value -> text of the command line, the inverse.
        default: the default as people write it, where its own text is no good.
        choices: the values there are, asked when they are needed.
        label: on a page; empty for the name.
    """

    help: str
    flags: tuple[str, ...] = ()
    positional: bool = False
    output: bool = False
    parse: Callable[[str], Any] | None = None
    write: Callable[[Any], str] = str
    default: str = ""
    choices: Callable[[], tuple[str, ...]] | None = None
    label: str = ""

    def flag(self, name: str) -> str:
        """The long spelling of a field."""
        return max(self.flags, key=len) if self.flags else f"--{name.replace('_', '-')}"


def option_of(field: FieldInfo) -> Option:
    """The `Option` among a field's annotations."""
    return next(each for each in field.metadata if isinstance(each, Option))


class Request(BaseModel):
    """Base of every request: unknown fields are refused, and what is wrong is a `UsageError` that names the field.

    A child's docstring is the help of its verb.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    task: ClassVar[str]
    """The verb."""

    if not TYPE_CHECKING:  # checkers read the fields

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise UsageError(self._problem(error)) from None

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

    def as_document(self) -> dict[str, Any]:
        """Plain values of what is not a default, for JSON."""
        plain = self.model_dump(mode="json", include=set(self.given()))
        return {TASK: self.task, **plain}

    def words(self) -> list[str]:
        """The words of the command line that ask the same."""
        options: list[str] = []
        last: list[str] = []
        for name, value in self.given().items():
            option = option_of(type(self).model_fields[name])
            values = value if isinstance(value, (list, tuple)) and option.parse is None else [value]
            if option.positional:
                last += map(option.write, values)
            elif isinstance(value, bool):
                options.append(option.flag(name) if value else option.flag(name).replace("--", "--no-", 1))
            else:
                options += [word for each in values for word in (option.flag(name), option.write(each))]
        # A word that begins with a dash would be an option.
        return [*options, "--", *last] if any(word.startswith("-") for word in last) else [*last, *options]

    def shell(self) -> str:
        """The line of shell that asks the same."""
        return shlex.join(["binderclip", self.task, *self.words()])

    def python(self) -> str:
        """The line of Python that asks the same, and prints what comes of it."""
        fields = self.model_dump(mode="json", include=set(self.given()))
        given = ", ".join(f"{name}={value!r}" for name, value in fields.items())
        return f"from binderclip.tasks import {self.task}; print({self.task}({given}).as_dict())"

    @classmethod
    def required(cls, name: str) -> bool:
        """Whether a field has no default."""
        return cls.model_fields[name].default is PydanticUndefined and cls.model_fields[name].default_factory is None


class VerbResult(Protocol):
    """What a task gives back, whatever it is."""

    @property
    def complete(self) -> bool:
        """Whether all that was named one by one could be used."""
        ...

    def table(self) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
        """Columns, and a row a picture."""
        ...

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        ...


R = TypeVar("R", bound=Request)


class VerbTask(Generic[P, S]):
    """A task as a function: `attack(images=["cat.jpg"], labels=["a cat", "a dog"])`.

    Args:
        request: the class of its requests, whose fields are the arguments, by name.
        run: from a request to its result.
    """

    def __init__(self, request: Callable[P, R], run: Callable[[R], S]) -> None:
        self.request: Any = request
        self._run: Any = run
        self.__doc__ = request.__doc__

    def __call__(self, *args: P.args, **fields: P.kwargs) -> S:
        """Ask and carry out.

        Raises:
            UsageError: a field that is wrong.
        """
        return self.run(self.request(*args, **fields))

    def run(self, request: Any, *, progress: Listener | None = None, stop: StopToken | None = None) -> S:
        """Carry out a request.

        Args:
            request: of this task.
            progress: is given the events (`binderclip.tasks.events`).
            stop: by which another thread ends it, at the next event.

        Raises:
            Stopped: it was ended. Others: as the task says.
        """
        with listening(progress, stop):
            result: S = self._run(request)
            return result
