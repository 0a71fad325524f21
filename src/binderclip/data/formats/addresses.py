"""Addresses of shards: brace ranges, what is local, and shell commands, which are refused."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import IO, Any, TypeAlias

from binderclip.data.files import irregular
from binderclip.errors import UsageError, require

Urls: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"


MOST_SHARDS = 1_000_000
"""Shards that one name with braces may stand for."""
_RANGE = re.compile(r"\{(-?\d+)\.\.(-?\d+)(?:\.\.-?(\d+))?\}")
_LIST_MARK = re.compile("[{},]")


def expand_braces(urls: Urls) -> list[str]:
    """Brace ranges written out: `a-{00..02}.tar` -> three names.

    Raises:
        UsageError: none, more than a million of them, braces that do not match, or an address with a quote or a line
            break, which older versions of webdataset would hand to a shell.
    """
    lists: Any = require("webdataset.shardlists", "train")
    expanded: list[str] = []
    for text in [urls] if isinstance(urls, (str, os.PathLike)) else urls:
        if isinstance(text, os.PathLike):
            expanded.append(os.fspath(text))  # a path is a path, whatever braces and colons it has
            continue
        # Before anything is written out: some ranges end only when the memory does.
        if _most_names(text) > MOST_SHARDS:
            raise UsageError(
                f"{text!r} names more than {MOST_SHARDS:,} shards; give a shorter range, such as {{000..099}}"
            )
        try:
            expanded += lists.expand_urls(text)
        except (ValueError, AssertionError, RecursionError) as error:
            raise UsageError(f"{text!r} is no list of shards such as x-{{000..099}}.tar: {error}") from error
    if not expanded:
        raise UsageError("no shards were named")
    for url in expanded:
        if not is_local(url) and not is_pipe(url) and any(sign in url for sign in "'\n\r\0"):
            raise UsageError(f"{url!r}: a quote or line break in an address: write it as %27 or %0A")
    return expanded


def _most_names(text: str) -> int:
    """A bound on how many names braces stand for: the product of all ranges and lists, nested or not."""
    most = 1
    for start, stop, step in _RANGE.findall(text):
        # Numbers of many digits would take long to read, and are too many however they are counted.
        if max(len(start), len(stop)) > 18:
            return MOST_SHARDS + 1
        most *= abs(int(stop) - int(start)) // max(1, int(step[:18] or 1)) + 1
    open_lists: list[int] = []
    for mark in _LIST_MARK.findall(text):
        if mark == "{":
            open_lists.append(1)
        elif open_lists and mark == ",":
            open_lists[-1] += 1
        elif open_lists:
            most *= open_lists.pop()
        if most > MOST_SHARDS:
            break
    return most


def is_pipe(url: str) -> bool:
    """Whether an address is a shell command, however it is spelt."""
    return re.sub(r"[\x00-\x20]", "", url).lower().startswith("pipe:")  # as urlparse reads it


def refuse_pipes(urls: Sequence[str]) -> None:
    """Stop where an address would run a shell command.

    Raises:
        UsageError: one does; shows the command.
    """
    pipes = [url for url in urls if is_pipe(url)]
    if pipes:
        more = f" (and {len(pipes) - 1} more)" if pipes[1:] else ""
        raise UsageError(
            f"{pipes[0][:200]!r}{more} runs a shell command, which data from somebody else must not: if you wrote it "
            "yourself, allow it with --allow-pipe, or allow_pipe=True in code; nothing was run"
        )


def is_local(url: str) -> bool:
    """Whether an address is a path on this machine."""
    return ("://" not in url and not is_pipe(url)) or url.startswith("file:")


def local_path(url: str) -> str:
    """The path of a local address."""
    return url.removeprefix("file://").removeprefix("file:")


def open_local(url: str) -> IO[bytes]:
    """A local file as a stream; a named pipe, a socket or a device is an `OSError`."""
    path = local_path(url)
    kind = irregular(path)
    if kind is not None:
        raise OSError(f"is {kind}, not a file")
    return open(path, "rb")
