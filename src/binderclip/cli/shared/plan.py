"""`--plan`: what a verb's work would cost on machines, printed."""

from __future__ import annotations

import typer

from binderclip.cli.shared.output import note, print_json, print_table
from binderclip.tasks.plan import PlannedWork


def show_plan(result: PlannedWork, json: bool) -> None:
    """Print what a task's work would cost, or its document."""
    if json:
        print_json(result.as_dict())
        return
    print_table(result.title, *result.table())
    typer.echo(result.plan.stops)
    for line in [*result.remarks(), *result.places()]:
        note(line)
