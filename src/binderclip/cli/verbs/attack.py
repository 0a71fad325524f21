"""`binderclip attack`: pictures that a model takes for something else, though hardly anything was changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from binderclip.cli.shared.output import note, print_json, print_table
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.verbs.attack.task import attack

if TYPE_CHECKING:
    from binderclip.tasks.verbs.attack.run import AttackReport

SHOWN = 20
"""Rows of the table on the screen; the CSV has all."""


def show(result: AttackReport, json: bool) -> None:
    """Print a result."""
    if json:
        print_json(result.as_dict())
        return
    columns, rows = result.table()
    part = f"the first {SHOWN} of " if len(rows) > SHOWN else ""
    print_table(part + result.title, columns, rows[:SHOWN])
    for line in result.remarks():
        note(line)
    note(f"pictures and changes in {short_path(result.folder)}, table {short_path(result.folder / 'table.csv')}")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, attack, show)
