"""What the verbs print: tables for people, one JSON document for machines; notes go to stderr."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console()
notes = Console(stderr=True)


def print_json(document: Any) -> None:
    """Print one JSON document; paths become strings and NaN becomes null."""
    print(json.dumps(_plain(document), ensure_ascii=False, indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and value != value:
        return None
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a Rich table; numbers are right-aligned by their column's first value."""
    rows = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", header_style="bold", title_style="bold")
    for index, column in enumerate(columns):
        number = bool(rows) and isinstance(rows[0][index], (int, float))
        table.add_column(column, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*[f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row])
    console.print(table)


def note(message: str) -> None:
    """Print a note for a person to stderr."""
    notes.print(message, highlight=False, markup=False, style="dim")


def warn_skipped(skipped: Sequence[tuple[Any, str]], most: int = 10) -> None:
    """Say which files were left out and why; the first `most` by name, then a count."""
    if not skipped:
        return
    notes.print(f"skipped {len(skipped)} file{'s' if len(skipped) > 1 else ''}:", style="yellow")
    for key, reason in skipped[:most]:
        # Most reasons already name the file.
        line = reason if str(key) in reason else f"{key}: {reason}"
        notes.print(f"  {line}", highlight=False, markup=False, style="yellow")
    if len(skipped) > most:
        notes.print(f"  and {len(skipped) - most} more", style="yellow")
