"""Labels as a user writes them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from binderclip.errors import UsageError

_PART = re.compile(r'\s*"((?:[^"]|"")*)"\s*(?=,|\Z)|[^,]*')
"""Up to the next comma; in double quotes, which are written twice inside them, a comma is part of a label."""


def parse_labels(text: str, option: str = "--labels", *, files: bool = True) -> list[str]:
    """The labels of `--labels`: comma-separated, or `@FILE` with one a line.

    A label with a comma in it stands in double quotes: `cat,"red, round"`.

    Args:
        text: as the user wrote it.
        option: the option's name, for messages.
        files: whether `@FILE` is read; where it is not, as on a page, a text that begins with `@` is refused, since
            the same text on a command line would name a file.

    Raises:
        UsageError: no label, an empty one, one named twice, or an `@` where no file is read.
    """
    if text.startswith("@"):
        if not files:
            raise UsageError(f"{option} {text}: no file is read here, write the words themselves, such as cat,dog")
        path = Path(text[1:])
        if not path.is_file():
            raise UsageError(f"{option} {text}: there is no file {path}")
        try:
            labels = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UsageError(f"{option} {text}: {path} is not a text file in UTF-8 ({error.reason})") from error
    else:
        labels = _parts(text)
    return checked_labels(labels, option)


def checked_labels(labels: Sequence[str], option: str = "--labels") -> list[str]:
    """Labels without blanks around them.

    Raises:
        UsageError: no label, an empty one, or one named twice.
    """
    labels = [label.strip() for label in labels]
    if not any(labels):
        raise UsageError(f"{option} is empty: give at least one label, such as {option} cat,dog")
    if "" in labels:
        raise UsageError(
            f"{option} {labels_text(labels)!r} has an empty label (two commas in a row, or one at the end)"
        )
    doubled = sorted(label for label, count in Counter(labels).items() if count > 1)
    if doubled:
        raise UsageError(f"{option} names {', '.join(map(repr, doubled))} more than once")
    return labels


def labels_text(labels: Sequence[str]) -> str:
    """Labels as `parse_labels` reads them."""
    return ",".join('"' + label.replace('"', '""') + '"' if _quoted(label) else label for label in labels)


def _quoted(label: str) -> bool:
    return "," in label or label.startswith(('"', "@"))


def _parts(text: str) -> list[str]:
    parts, at = [], 0
    while True:
        part = _PART.match(text, at)
        assert part is not None  # of no characters, if nothing else
        parts.append(part[0] if part[1] is None else part[1].replace('""', '"'))
        at = part.end() + 1
        if at > len(text):
            return parts
