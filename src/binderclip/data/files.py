"""Listing and reading the files of a folder that anybody may have filled.

Named pipes, sockets and devices (which would block or never end), links that lead round in circles and names that are
not UTF-8 are left out and named, so that one of them costs itself and not the folder.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from pathlib import Path

from binderclip.errors import DataError

_SURROGATE = re.compile("[\ud800-\udfff]")
_Identity = tuple[int, int]


def not_unicode(text: str) -> bool:
    """Whether a text holds what no UTF-8 can: bytes that were no text in a name, or half a pair from JSON."""
    return _SURROGATE.search(text) is not None


def printable(name: str) -> str:
    """A file name with what is not UTF-8 written as `\\xe9`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace") if not_unicode(name) else name


def irregular(path: str | os.PathLike[str]) -> str | None:
    """ "a named pipe", "a socket" or "a device" where reading a path could block or never end; else None.

    What does not exist is none of these; opening it says so.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return None
    if stat.S_ISFIFO(mode):
        return "a named pipe"
    if stat.S_ISSOCK(mode):
        return "a socket"
    return "a device" if stat.S_ISCHR(mode) or stat.S_ISBLK(mode) else None


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a regular file.

    Raises:
        DataError: there is none, it cannot be read, or it is a pipe, a socket or a device; names it.
    """
    kind = irregular(path)
    if kind is not None:
        raise DataError(f"{path}: is {kind}, not a file")
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from error


def list_files(
    root: str | os.PathLike[str],
    *,
    suffixes: Collection[str] | None = None,
    without: str | os.PathLike[str] | None = None,
) -> tuple[list[str], list[tuple[str, str]]]:
    """Every file below a folder by its relative path with `/`, sorted; hidden files and folders are left out.

    Links to folders are followed, each target once; a link to a folder above it is not.

    Args:
        root: an existing folder.
        suffixes: only files with these (lower case, with the dot); None for all.
        without: a folder that is left out where it lies below `root`.

    Returns:
        The names, and (name, reason) of what was left out.
    """
    return _Walk(Path(root), suffixes, without).run()


class _Walk:
    def __init__(self, root: Path, suffixes: Collection[str] | None, without: str | os.PathLike[str] | None) -> None:
        self.root, self.suffixes = root, suffixes
        # Where it is the folder itself or above it, nothing can be told apart.
        self.aside = None if without is None else os.path.realpath(without)
        self.files: list[str] = []
        self.skipped: list[tuple[str, str]] = []
        self.linked: dict[_Identity, str] = {}
        self.todo: list[tuple[str, frozenset[_Identity]]] = []

    def run(self) -> tuple[list[str], list[tuple[str, str]]]:
        self.todo.append(("", frozenset([_identity(self.root)])))
        while self.todo:
            folder, above = self.todo.pop()
            try:
                with os.scandir(self.root / folder) as listing:
                    entries = sorted(listing, key=lambda entry: entry.name)
            except OSError as error:
                self.skipped.append((folder or str(self.root), f"cannot be read ({error.strerror or error})"))
                continue
            deeper = len(self.todo)
            for entry in entries:
                if not entry.name.startswith("."):
                    self._take(f"{folder}/{entry.name}" if folder else entry.name, entry, above)
            self.todo[deeper:] = reversed(self.todo[deeper:])  # the last on the stack is the first to be taken
        return sorted(self.files), sorted(self.skipped)

    def _take(self, name: str, entry: os.DirEntry[str], above: frozenset[_Identity]) -> None:
        try:
            is_folder, is_file = entry.is_dir(), entry.is_file()
        except OSError as error:
            if self.suffixes is None or self._wanted(name):
                self.skipped.append((printable(name), f"cannot be read ({error.strerror or error})"))
            return
        if not is_folder and not self._wanted(name):
            return
        if is_folder and entry.name == "__MACOSX":
            return
        if not_unicode(entry.name):
            self.skipped.append((printable(name), "its name is not UTF-8"))
        elif is_folder:
            self._enter(name, entry.is_symlink(), above)
        elif is_file or (kind := irregular(self.root / name)) is None:
            self.files.append(name)
        else:
            self.skipped.append((name, f"is {kind}, not a file"))

    def _wanted(self, name: str) -> bool:
        return self.suffixes is None or os.path.splitext(name)[1].lower() in self.suffixes

    def _enter(self, name: str, is_link: bool, above: frozenset[_Identity]) -> None:
        if self.aside is not None and os.path.realpath(self.root / name) == self.aside:
            return
        try:
            identity = _identity(self.root / name)
        except OSError as error:
            self.skipped.append((name, f"cannot be read ({error.strerror or error})"))
            return
        if identity in above:
            self.skipped.append((name, "is a link to a folder above it"))
        elif is_link and identity in self.linked:
            self.skipped.append((name, f"is a link to the same folder as {self.linked[identity]}"))
        else:
            if is_link:
                self.linked[identity] = name
            self.todo.append((name, above | {identity}))


def _identity(path: str | os.PathLike[str]) -> _Identity:
    """Of a folder, whatever it is called."""
    status = os.stat(path)
    return status.st_dev, status.st_ino
