"""`binderclip descriptions`: have a language model write what classes look like."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.shared.options import Json, finite
from binderclip.cli.shared.output import note, print_json, print_table
from binderclip.display import number_of
from binderclip.documents import read_problem
from binderclip.errors import DataError, UsageError
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.files.outputs import OUTPUT, writable_path
from binderclip.tasks.files.results import save_or_keep
from binderclip.tasks.files.writing import write_json


def descriptions(
    labels: Annotated[
        str, typer.Argument(help="Labels, separated by commas; `@FILE`, one a line; or the name of a shipped set.")
    ],
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="JSON file for `classify --descriptions`."), OUTPUT
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Base URL of an OpenAI-compatible service, also a local one. [env: BINDERCLIP_LLM_URL]"),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Its model. [env: BINDERCLIP_LLM_MODEL]")] = None,
    attributes: Annotated[
        str, typer.Option(help="What to describe, separated by commas [default: the model chooses].")
    ] = "",
    count: Annotated[int, typer.Option(min=1, max=1000, help="Attributes that the model chooses.")] = 6,
    prompt: Annotated[
        str | None, typer.Option(help="Prompt file with the sections [attributes] and [sentences].")
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=1, max=86_400, callback=finite, help="Seconds to wait for one answer.")
    ] = 60.0,
    json: Json = False,
) -> None:
    """Describe labels by visual sentences, written by a language model or shipped.

    The key of the service is read from BINDERCLIP_LLM_KEY. Nothing is sent anywhere but to the URL you name; a shipped
    set (animals, scenes15, fashion-mnist, digits, textile, openmoji, openclipart) needs no service.

    Examples:

        binderclip descriptions animals

        binderclip descriptions "oak,beech,birch" --out trees.json --url http://127.0.0.1:8080/v1 --model qwen
    """
    from binderclip.adapt import shipped_descriptions, write_descriptions

    target = None if out is None else writable_path(out)
    if labels in shipped_descriptions():
        found = shipped_descriptions()[labels]
    else:
        names = parse_labels(labels, "LABELS")
        if target is None:
            raise UsageError("--out FILE is needed: it is what `binderclip classify --descriptions FILE` reads")
        chosen = parse_labels(attributes, "--attributes") if attributes else None
        text = None if prompt is None else _read(Path(prompt))
        found = write_descriptions(
            names, url=url, model=model, attributes=chosen, count=count, prompt=text, timeout=timeout, progress=note
        )
    document = {"about": found.about, "attributes": found.attributes, "classes": found.classes}
    if target is not None:
        save_or_keep(partial(write_json, document), target)
        note(
            f"wrote {target}: {number_of(len(found.classes), 'label')}, {number_of(len(found.attributes), 'attribute')}"
        )
    if json:
        print_json(document)
    elif target is None:
        rows = [[name, *own] for name, own in found.classes.items()]
        print_table(f"{labels}: {found.about}", ["label", *found.attributes], rows)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"--prompt: there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompt: {path} cannot be read as text ({read_problem(error)})") from error


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(descriptions)
