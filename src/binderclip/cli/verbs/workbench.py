"""`binderclip workbench`: the local page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.shared.options import DEFAULT_MODEL, Device, Model
from binderclip.cli.shared.output import note
from binderclip.errors import UsageError
from binderclip.files import why_no_folder


def workbench(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of pictures that the page may read, besides what is dropped on it."),
    ] = None,
    model: Model = DEFAULT_MODEL,
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Where to listen [default: a free port].")] = 0,
    browser: Annotated[bool, typer.Option(help="Whether to open the page in a browser.")] = True,
    device: Device = "cpu",
) -> None:
    """Open a local web page: classify, search, segment and the rest, by dropping pictures.

    Only this machine can reach it, and only by the link that is printed; nothing is sent anywhere. Ctrl-C ends it and
    deletes what was uploaded.

    Examples:

        binderclip workbench

        binderclip workbench holiday/ --model open_clip:ViT-B-32/openai
    """
    for folder in folders or []:
        if not folder.is_dir():
            raise UsageError(why_no_folder(folder))

    from binderclip.workbench.server import WorkbenchServer

    note("opening the workbench ...")
    server = WorkbenchServer(
        port=port, model=model, folders=[folder.absolute() for folder in folders or []], device=device
    )
    typer.echo(server.address)
    note("Ctrl-C ends it and deletes what was uploaded")
    if browser:
        import threading
        import webbrowser

        threading.Timer(1.0, webbrowser.open, [server.address]).start()
    try:
        server.run()
    except KeyboardInterrupt:
        note("closed; what was uploaded is deleted")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(workbench)
