"""Labels as a user writes them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from binderclip.errors import UsageError


def parse_labels(text: str, option: str = "--labels", *, files: bool = True) -> list[str]:
    """The labels of `--labels`: comma-separated, or `@FILE` with one a line.

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
        labels = [part.strip() for part in text.split(",")]
    if not labels or not any(labels):
        raise UsageError(f"{option} is empty: give at least one label, such as {option} cat,dog")
    if "" in labels:
        raise UsageError(f"{option} {text!r} has an empty label (two commas in a row, or one at the end)")
    doubled = sorted(label for label, count in Counter(labels).items() if count > 1)
    if doubled:
        raise UsageError(f"{option} names {', '.join(map(repr, doubled))} more than once")
    return labels
