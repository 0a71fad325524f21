"""The errors binderclip raises on purpose.

Each message says what was wrong, where, and what would be right, in one or two lines. The command line prints the
message alone and exits with `exit_code`; in Python they are ordinary exceptions, and `UsageError` is also a
`ValueError` so that code written against other libraries catches it.
"""

from __future__ import annotations


class BinderclipError(Exception):
    """Base of every error raised on purpose."""

    exit_code = 1


class UsageError(BinderclipError, ValueError):
    """An argument, label, recipe entry or shape is wrong; nothing was started."""

    exit_code = 2


class DataError(BinderclipError):
    """A file or data set cannot be read or holds nothing usable."""


class CheckpointError(BinderclipError):
    """A checkpoint is damaged, incomplete, unsafe to read, or not of the expected kind."""


class NotSupported(BinderclipError):
    """The request makes sense, but this model, device or backend cannot do it."""


class MissingDependency(BinderclipError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""


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
