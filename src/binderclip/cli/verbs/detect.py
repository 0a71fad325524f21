"""`binderclip detect`: which pictures are generated, by a bundled detector or one trained on your own folders."""

from __future__ import annotations

import typer

from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.detect.task import detect


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, detect)
