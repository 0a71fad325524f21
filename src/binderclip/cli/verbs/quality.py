"""`binderclip quality`: which pictures are bad, by pairs of words; and how far two folders are apart."""

from __future__ import annotations

import typer

from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.quality.task import quality


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, quality)
