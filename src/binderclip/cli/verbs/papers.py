"""`binderclip papers`: which papers there are, and what each one is called here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from binderclip.cli.shared.options import Json
from binderclip.cli.shared.output import console, print_json, print_table

if TYPE_CHECKING:
    from binderclip.papers import Paper


def papers(
    words: Annotated[
        list[str] | None,
        typer.Argument(help="An id (`p002`), a name (`zclip`), or words that all have to occur."),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List every paper, a line each.")] = False,
    status: Annotated[
        Literal["done", "planned", "any"], typer.Option(help="Only papers that are done, or only planned ones.")
    ] = "any",
    json: Json = False,
) -> None:
    """Find a paper and the class, test, study and figures that go with it.

    Examples:

        binderclip papers zclip

        binderclip papers gradient clipping

        binderclip papers --status done

    Without words it says how many there are of each kind.
    """
    from binderclip import papers as index
    from binderclip.errors import UsageError

    query = " ".join(words or [])
    if not (query or every or json or status != "any"):
        _overview(index.papers())
        return
    chosen = None if status == "any" else status
    entries = [entry for entry in index.papers(status=chosen) if query and entry.is_named(query)]
    entries = entries or index.papers(query or None, status=chosen)
    if not entries:
        raise UsageError(f"no paper matches {query!r}; `binderclip papers --all` lists all")
    if not json and len(entries) == 1:
        _card(entries[0])
        return
    from binderclip.studies import columns_of

    rows = [columns_of(entry) for entry in entries]
    if json:
        print_json([{**asdict(row.paper), "url": row.paper.url, **row.document()} for row in rows])
        return
    # The order of the ids: who lists papers looks one up. The page sorts by what to choose.
    cells = [
        [row.paper.id, row.name, row.paper.title, row.implementation, row.claim or row.paper.status, row.rival_word]
        for row in rows
    ]
    names = ("id", "method", "paper", "implementation", "claim here", "cheap rival")
    print_table(f"{len(entries)} papers", names, cells)


ROOMS = {
    "optim": "gradient clipping, gradient transforms, optimizers",
    "privacy": "private training",
    "landscape": "sharpness and loss surfaces",
    "losses": "contrastive and dense losses",
    "data": "data, augmentation, scenes",
    "curate": "choosing training data",
    "compress": "smaller models",
    "models": "towers and their parts",
    "fit": "training loops",
    "train": "recipes",
    "adapt": "zero-shot, few-shot, prompts",
    "segment": "segmentation, anomalies",
    "explain": "attribution, and its tests",
    "robust": "attacks and defences",
    "evaluate": "benchmarks and probes",
    "quality": "image quality, generative metrics",
    "generate": "pictures that are made",
    "vision": "edges, transforms, neural fields",
    "search": "search",
    "studies": "studies",
}


def _overview(every: Sequence[Paper]) -> None:
    """How many papers there are of each kind, and how to ask for one: a page, not the list."""
    rows = []
    for room, about in ROOMS.items():
        own = [entry for entry in every if entry.packages[:1] == (room,)]
        if not own:
            continue
        done = [entry for entry in own if entry.status == "done"]
        names = [entry.names[0].rsplit(".", 1)[-1] for entry in done or own if entry.names]
        rows.append([room, about, len(done), len(own), ", ".join(list(dict.fromkeys(names))[:3])])
    total = sum(entry.status == "done" for entry in every)
    print_table(
        f"{len(every)} papers; the {total} that are done have an independent check and a study of their claim",
        ("room", "about", "done", "of", "such as"),
        rows,
    )
    console.print(
        "binderclip papers zclip               one paper: its class, test, study and what was measured\n"
        "binderclip papers gradient clipping   those with all of the words\n"
        "binderclip papers --status done       those that are done; --all lists every one",
        soft_wrap=True,
    )


def _card(entry: Paper) -> None:
    lines = [
        ("", f"{entry.id}  {entry.title}"),
        ("", f"{entry.citation}  {entry.url}".rstrip()),
        ("kind", f"{entry.kind}, {entry.status}"),
        ("names", ", ".join(entry.names)),
        ("use", "\n".join(entry.use)),
        ("tests", ", ".join(entry.tests)),
        ("stand-ins", "; ".join(entry.stand_in)),
    ]
    from binderclip.studies import columns_of

    columns = columns_of(entry)
    result = columns.result
    lines += [
        ("checked", "\n".join(f"{kind}: {test}" for kind, test in entry.checked)),
        ("study", f"binderclip reproduce {entry.study}" if entry.study else ""),
        ("full scale", entry.at_paper_scale),
        ("claim here", columns.claim),
        ("effect", columns.effect),
        ("rival", columns.against),
        ("cost", columns.cost),
        ("why not", columns.why_not),
        ("choosing", columns.means),
        ("before", ", ".join(former.verdict for former in result.history) if result is not None else ""),
    ]
    for name, text in lines:
        if text:
            pad = "" if not name else f"{name:<11}"
            shown = pad + text.replace("\n", "\n" + " " * len(pad))
            console.print(shown, highlight=False, markup=False, soft_wrap=name == "full scale")
    if result is None:
        return
    for check in result.checks:
        console.print(
            f"{'':<11}{check.word}: {check.text} ({check.shown or check.measured})", highlight=False, markup=False
        )
    for remark in result.notes:
        console.print(f"{'':<11}{remark}", highlight=False, markup=False)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(papers)
