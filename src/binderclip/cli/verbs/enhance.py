"""`binderclip enhance`: backlit pictures with more even light, by an enhancer of your own two folders."""

from __future__ import annotations

import typer

from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.enhance.task import enhance


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, enhance)
