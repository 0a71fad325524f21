"""`binderclip segment-task`: one sentence over a folder, the words it chose in each picture, and their masks."""

from __future__ import annotations

import typer

from binderclip.cli.shared.output import print_whole
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.segment_task.task import segment_task


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, segment_task, print_whole)
