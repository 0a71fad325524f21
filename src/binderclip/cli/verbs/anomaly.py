"""`binderclip anomaly`: which pictures of a folder are damaged, and where."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from binderclip.cli.shared.output import note, print_json, print_table
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.anomaly.task import anomaly

if TYPE_CHECKING:
    from binderclip.tasks.verbs.anomaly.inspection import Inspection

SHOWN = 10
FAILED = 3
"""Exit code where a picture is at or above --threshold: told apart from an error, which is 1."""


def show(result: Inspection, json: bool) -> int:
    """Print a result; what a script reads goes to stdout. Gives the exit code."""
    if json:
        print_json(result.as_dict())
    else:
        columns, rows = result.table()
        part = f"the first {SHOWN} of " if len(rows) > SHOWN else ""
        print_table(part + result.title, columns, rows[:SHOWN])
        for line in [*result.measured(), *result.places()]:
            typer.echo(line)
        for line in result.remarks():
            note(line)
    return FAILED if result.failed() else 0


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, anomaly, show)
