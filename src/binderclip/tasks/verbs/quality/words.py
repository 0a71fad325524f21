"""Pairs of words that `quality` scores by, and the columns that they make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from binderclip.errors import UsageError

AT_FIRST = ("quality", "brightness", "sharpness", "noisiness", "aesthetic")
"""Columns of a model that knows the words."""
QUALITY = "quality"
"""The column that comes from bundled weights where the model has some."""
LEARNED = "learned"
"""The column of --weights."""
DISTANCES = ("st-lpips", "lpips")


def pairs_of(path: Path) -> list[tuple[str, str]]:
    """The pairs of `--pairs`: `BETTER | WORSE`, one a line.

    Raises:
        UsageError: no such file, or a line that is no pair.
    """
    if not path.is_file():
        raise UsageError(f"--pairs {path}: there is no file {path}")
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise UsageError(f"--pairs {path}: not a text file in UTF-8 ({error.reason})") from error
    pairs = []
    for number, line in enumerate(lines, 1):
        ends = [part.strip() for part in line.split("|")]
        if line and len(ends) != 2:
            raise UsageError(f"--pairs {path}, line {number}: {line!r} is not BETTER | WORSE")
        if line:
            pairs.append((ends[0], ends[1]))
    return pairs


def named_pairs(scores: Sequence[str], own: Sequence[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Column -> (better, worse): keywords, and pairs of the user's own, named by their better end.

    Raises:
        UsageError: an unknown keyword, an empty text, or a column twice.
    """
    from binderclip.quality import PAIRS

    columns: dict[str, tuple[str, str]] = {}
    for name in scores:
        if name not in PAIRS:
            raise UsageError(f"--scores {name!r} is unknown: {', '.join(PAIRS)}; --pair takes words of your own")
        columns[name] = PAIRS[name]
    for better, worse in own:
        if not better.strip() or not worse.strip():
            raise UsageError(f"--pair {better!r} {worse!r}: neither of the two may be empty")
        if better in columns or better == LEARNED:
            raise UsageError(f"--pair {better!r} {worse!r}: there is a column {better!r} already")
        columns[better] = (better, worse)
    return columns
