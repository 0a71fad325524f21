"""Addresses of shards: brace ranges, what is local, and shell commands, which are refused."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import IO, Any, TypeAlias

from binderclip.data.files import irregular
from binderclip.errors import UsageError, require

Urls: TypeAlias = "str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"


def expand(urls: Urls) -> list[str]:
    """Brace ranges written out: `a-{00..02}.tar` -> three names.

    Raises:
        UsageError: none, or an address with a quote or a line break, which older versions of webdataset would hand to
            a shell.
    """
    lists: Any = require("webdataset.shardlists", "train")
    expanded: list[str] = []
    for text in [urls] if isinstance(urls, (str, os.PathLike)) else urls:
        # A path is a path, whatever braces and colons it has.
        expanded += [os.fspath(text)] if isinstance(text, os.PathLike) else lists.expand_urls(text)
    if not expanded:
        raise UsageError("no shards were named")
    for url in expanded:
        if not is_local(url) and not is_pipe(url) and any(sign in url for sign in "'\n\r\0"):
            raise UsageError(f"{url!r}: a quote or line break in an address: write it as %27 or %0A")
    return expanded


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
