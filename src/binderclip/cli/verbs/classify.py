"""`binderclip classify`: which label fits each image."""

from __future__ import annotations

import typer

from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.classify.task import classify


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, classify)
