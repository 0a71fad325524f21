"""`binderclip curate`: which image-text pairs of a pool to train on, by a recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from binderclip.cli.shared.output import print_result
from binderclip.cli.shared.plan import show_plan
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.plan import PlannedWork
from binderclip.tasks.verbs.curate.task import curate

if TYPE_CHECKING:
    from binderclip.tasks.verbs.curate.listing import CurationListing
    from binderclip.tasks.verbs.curate.run import CurationDone


def show(result: CurationDone | CurationListing | PlannedWork, json: bool) -> None:
    """Print a result; what a script reads goes to stdout."""
    if isinstance(result, PlannedWork):
        show_plan(result, json)
        return
    print_result(result, json)
    for file in () if json else result.files:
        typer.echo(file)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, curate, show)
