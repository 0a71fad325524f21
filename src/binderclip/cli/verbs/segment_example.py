"""`binderclip segment-example`: what a picture shows with its mask, found in others."""

from __future__ import annotations

import typer

from binderclip.cli.shared.output import print_whole
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.segment_example.task import segment_example


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, segment_example, print_whole)
