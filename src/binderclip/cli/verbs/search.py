"""`binderclip search`: index a folder once, then find images, and texts, by words or by an example."""

from __future__ import annotations

import typer

from binderclip.cli.shared.task_command import add_task
from binderclip.cli.shared.verb import VerbApp
from binderclip.tasks import search_index, search_query

search = VerbApp(no_args_is_help=True, help="Find images in a folder by words or by an example image.")
add_task(search, search_index)
add_task(search, search_query)


def register(app: typer.Typer) -> None:
    """Add the group to the application."""
    app.add_typer(search, name="search")
