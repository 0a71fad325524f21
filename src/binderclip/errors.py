"""The errors binderclip raises on purpose.

Each message says what was wrong, where, and what would be right, in one or two lines. The command line prints the
message alone and exits with `exit_code`; in Python they are ordinary exceptions, and `UsageError` is also a
`ValueError` so that code written against other libraries catches it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST_QUOTED = 160
"""Characters of one quoted value, path or word that a message repeats."""

_LONG = re.compile(rf"""(?<!\w)(['"])(?:(?!\1).){{{MOST_QUOTED + 1},}}\1(?!\w)|\S{{{MOST_QUOTED + 1},}}""")


def short_values(message: str) -> str:
    """The message with the middle of every very long quoted value or word left out.

    Args:
        message: what an error says; values that a user wrote may stand in it whole.
    """
    ends = (MOST_QUOTED - 5) * 2 // 3, (MOST_QUOTED - 5) // 3
    return _LONG.sub(lambda values: f"{values[0][: ends[0]]} ... {values[0][-ends[1] :]}", message)


class BinderclipError(Exception):
    """Base of every error raised on purpose; very long values in its message are shortened."""

    exit_code = 1

    def __init__(self, *args: object) -> None:
        super().__init__(*(short_values(texts) if isinstance(texts, str) else texts for texts in args))


class UsageError(BinderclipError, ValueError):
    """An argument, label, recipe entry or shape is wrong; nothing was started."""

    exit_code = 2


class DataError(BinderclipError):
    """A file or data set cannot be read or holds nothing usable."""


class OutputError(DataError):
    """A file or a folder cannot be written; what was there before is as it was."""


class CheckpointError(BinderclipError):
    """A checkpoint is damaged, incomplete, unsafe to read, or not of the expected kind."""


class NotSupported(BinderclipError):
    """The request makes sense, but this model, device or backend cannot do it."""


class MissingDependency(BinderclipError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


def errors_behind(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and each that it was raised from or beside, every one once.

    Args:
        error: of any library; one that was raised again may stand behind itself.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def was_interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C is behind an error: libraries that it meets while they are imported raise errors of their own."""
    return any(isinstance(each, KeyboardInterrupt) for each in errors_behind(error))


def require(module: str, extra: str) -> object:
    """Import `module`, or raise `MissingDependency` naming the extra (`pip install "binderclip[extra]"`).

    Args:
        module: dotted name of the module.
        extra: the extra of binderclip that brings it.
    """
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingDependency(f'{module} is not installed: pip install "binderclip[{extra}]" ({error})') from error
