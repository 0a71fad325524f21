"""`binderclip probe`: for which groups of pictures a model is worse, and whether chance alone could be the reason."""

from __future__ import annotations

import typer

from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.probe.task import probe


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, probe)
