"""`binderclip attack`: pictures that a model takes for something else, though hardly anything was changed."""

from __future__ import annotations

import typer

from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.attack.task import attack


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, attack)
