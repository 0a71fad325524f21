"""`binderclip cache`: the feature cache on disk."""

from __future__ import annotations

from typing import Annotated

import typer

from binderclip.cli.shared.options import Json
from binderclip.cli.shared.output import print_json, print_table
from binderclip.cli.shared.verb import VerbApp

cache = VerbApp(no_args_is_help=True, help="Show or empty the cache of image and text features.")


@cache.command("info")
def info(json: Json = False) -> None:
    """Print where the cache is and what it holds."""
    from binderclip.data import cache_info

    report = cache_info()
    if json:
        print_json(report.as_dict())
        return
    print_table(f"Cache at {report.root}", ("model and view", "entries", "MB"), report.rows())


@cache.command("clear")
def clear(
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Delete everything in the cache; it fills again as models run."""
    from binderclip.data import cache_info, clear_cache

    report = cache_info()
    if not yes and not json:
        typer.confirm(f"Delete {report.megabytes:.1f} MB at {report.root}?", abort=True)
    freed = clear_cache()
    if json:
        print_json({"root": report.root, "freed_bytes": freed})
    else:
        typer.echo(f"freed {freed / 1e6:.1f} MB")


def register(app: typer.Typer) -> None:
    """Add the group to the application."""
    app.add_typer(cache, name="cache")
