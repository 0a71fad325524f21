"""`binderclip segment`: which label every pixel belongs to."""

from __future__ import annotations

import typer

from binderclip.cli.shared.output import print_whole
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.segment.task import segment

MOVED = {
    "--task": "segment-task",
    "--example": "segment-example",
    "--mask": "segment-example",
    "--head": "segment-head",
    "--evaluate": "segment-evaluate",
    "--list": "segment-presets",
}


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, segment, print_whole, moved=MOVED)
