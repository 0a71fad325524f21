"""`binderclip click`: the mask of what was pointed at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from binderclip.cli.shared.output import print_json
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.click.task import click

if TYPE_CHECKING:
    from binderclip.tasks.verbs.click.run import ClickReport


def show(result: ClickReport, json: bool) -> None:
    """Print a result."""
    if json:
        print_json(result.as_dict())
        return
    for line in [result.title, *result.places()]:
        typer.echo(line)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, click, show)
