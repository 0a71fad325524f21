"""`binderclip masks`: everything in a picture, cut out without a word or a click."""

from __future__ import annotations

import typer

from binderclip.cli.shared.output import print_whole
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.masks.task import masks


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, masks, print_whole)
