"""`binderclip segment-evaluate`: presets of the segmenter, measured on true label maps."""

from __future__ import annotations

import typer

from binderclip.cli.shared.output import print_whole
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.segment_evaluate.task import segment_evaluate


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, segment_evaluate, print_whole)
