"""What the verbs print: tables for people, one JSON document for machines; notes go to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table

from binderclip.documents import json_text
from binderclip.errors import short_values
from binderclip.tasks.files.writing import short_reason

SMALLEST = 0.0005
"""What three digits behind the point show as 0.001 at least."""
SHOWN = 20
"""Rows of a result's table on the screen; what it writes has all."""
PIPE_WIDTH = 200
"""Columns of a table that goes into a file or a pipe: nothing has to be folded there."""


class _PlainConsole(Console):
    """A console that prints what it is given: `[red]` and `:cat:` in names and labels are no orders to it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> NoReturn:
        # Rich would leave with code 1; the command line knows what to do.
        raise BrokenPipeError


console = _PlainConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else PIPE_WIDTH)
notes = _PlainConsole(stderr=True)

_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"}


def printable(text: str) -> str:
    """The text with control characters written out: a file's name must not move a terminal's cursor."""
    return text.translate(_CONTROL)


def print_json(document: Any) -> None:
    """Print one JSON document; paths become strings, NaN null and infinities "inf"."""
    print(json_text(document))


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a Rich table; numbers are right-aligned by their column's first value.

    The first column is what people copy (a path, a name), so it is folded last.
    """
    rows = [list(row) for row in rows]
    room = console.width // 2
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for index, column in enumerate(columns):
        number = bool(rows) and isinstance(rows[0][index], (int, float))
        whole = index == 0 and all(len(str(row[0])) <= room for row in rows)
        table.add_column(printable(column), justify="right" if number else "left", overflow="fold", no_wrap=whole)
    for row in rows:
        table.add_row(*[_decimals(cell) if isinstance(cell, float) else printable(str(cell)) for cell in row])
    # A title inside the table would be folded to the table's width.
    console.print(printable(title), style="bold", soft_wrap=True)
    console.print(table)


def _decimals(value: float) -> str:
    """Three digits behind the point; of what they would show as 0, the first three that are none."""
    return f"{value:.3f}" if not value or abs(value) >= SMALLEST else f"{value:.3g}"


def print_result(result: Any, json: bool) -> None:
    """Print the tables of a task's result and what is to know of it, or its document.

    Args:
        result: a `binderclip.tasks.request.VerbResult`.
        json: whether the document is printed.
    """
    if json:
        print_json(result.as_dict())
        return
    columns, rows = result.table()
    if rows:
        most = len(rows) if result.whole else SHOWN
        part = f"the first {most} of " if len(rows) > most else ""
        print_table(part + result.title, columns, rows[:most])
    for table in result.more_tables():
        print_table(*table)
    for line in result.conclusion():
        console.print(printable(line), soft_wrap=True)
    for line in [*result.remarks(), *result.places()]:
        note(line)


def note(message: str) -> None:
    """Print a note for a person to stderr."""
    notes.print(printable(message), style="dim", soft_wrap=True)


def warn_skipped(skipped: Sequence[tuple[Any, str]], most: int = 10) -> None:
    """Say which files were left out and why; the first `most` by name, then a count."""
    if not skipped:
        return
    lines = [f"skipped {len(skipped)} file{'s' if len(skipped) > 1 else ''}:"]
    lines += ["  " + short_reason(key, reason) for key, reason in skipped[:most]]
    if len(skipped) > most:
        lines.append(f"  and {len(skipped) - most} more")
    for line in lines:
        notes.print(printable(short_values(line)), style="yellow", soft_wrap=True)
