"""`binderclip segment-presets`: what each preset of the segmenter is for."""

from __future__ import annotations

import typer

from binderclip.cli.shared.output import print_whole
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.verbs.segment_presets.task import segment_presets


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, segment_presets, print_whole)
