"""`binderclip locate`: which of the given regions a text means."""

from __future__ import annotations

import typer

from binderclip.cli.shared.output import print_whole
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.locate.task import locate


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, locate, print_whole)
