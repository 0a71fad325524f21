"""`binderclip segment-head`: label maps by a head that was trained and saved."""

from __future__ import annotations

import typer

from binderclip.cli.shared.output import print_whole
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.segment_head.task import segment_head


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, segment_head, print_whole)
