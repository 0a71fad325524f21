"""`binderclip train`: a recipe becomes a run folder with a trained model."""

from __future__ import annotations

from typing import Any

import typer

from binderclip.cli.shared.output import note, print_json, print_result
from binderclip.cli.shared.plan import show_plan
from binderclip.cli.shared.task_command import add_task
from binderclip.tasks.plan import PlannedWork
from binderclip.tasks.verbs.train.check import RecipeText
from binderclip.tasks.verbs.train.run import TrainedRun
from binderclip.tasks.verbs.train.task import train


def show(result: Any, json: bool) -> None:
    """Print a result; of several processes the one that leads prints it."""
    if isinstance(result, TrainedRun) and not result.leads:
        return
    if isinstance(result, PlannedWork):
        show_plan(result, json)
    elif isinstance(result, RecipeText):
        print_json(result.as_dict()) if json else typer.echo(result.text, nl=False)
        for line in result.remarks():
            note(line)
    else:
        print_result(result, json)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    add_task(app, train, show)
