"""`binderclip reproduce`: run the studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.options import Json
from binderclip.cli.output import note, print_json, print_table
from binderclip.errors import UsageError

if TYPE_CHECKING:
    from binderclip.studies import Result


def reproduce(
    paper: Annotated[str | None, typer.Argument(help="Id, name or title words of a paper, such as `p162`.")] = None,
    all_: Annotated[
        bool, typer.Option("--all", help="Run every study; one that fails does not stop the others.")
    ] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for JSON, text and figures [default: runs/studies; in a checkout with --all: docs/results, "
            "and docs/PAPERS.md is written anew].",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas [default: the study's own].")] = "",
    json: Json = False,
) -> None:
    """Measure the claim of a paper at laptop scale, against a fair baseline, and say what was found.

    Each study takes at most about two minutes on two cores. The verdict is `holds`, `weak` or `not shown at this
    scale`, by a rule that stands in the study's file.

    Examples:

        binderclip reproduce p162

        binderclip reproduce --all
    """
    from binderclip.papers import paper as find
    from binderclip.studies import available, checkout, load_study, papers_page, results_in, run_study, save

    if all_ == (paper is not None):
        raise UsageError("name one paper, or give --all")
    wanted = list(available()) if paper is None else [find(paper).id]
    if paper is not None:
        load_study(wanted[0])
    numbers = _seeds(seeds)
    root = checkout()
    whole = all_ and out is None and root is not None
    folder = Path(out) if out else root / "docs" / "results" if whole and root is not None else Path("runs/studies")
    results = []
    for identifier in wanted:
        result = run_study(identifier, numbers, note)
        written = save(result, folder)
        results.append(result)
        note(f"{identifier}: {result.verdict} in {result.seconds:.0f} s, {', '.join(map(str, written))}")
    if whole and root is not None:
        page = root / "docs" / "PAPERS.md"
        page.write_text(papers_page(results_in(folder)), encoding="utf-8")
        note(f"wrote {page}")
    if json:
        print_json([_document(result, folder) for result in results])
    else:
        for result in results:
            _print(result)
    if any(result.verdict == "failed" for result in results):
        raise typer.Exit(1)


def _seeds(text: str) -> list[int] | None:
    if not text.strip():
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds {text!r}: whole numbers separated by commas, such as 0,1,2") from None


def _document(result: Result, folder: Path) -> dict[str, Any]:
    return {
        "paper": result.paper,
        "verdict": result.verdict,
        "reason": result.reason,
        "checks": [vars(check) for check in result.checks],
        "seconds": round(result.seconds, 1),
        "folder": folder,
    }


def _print(result: Result) -> None:
    if result.verdict == "failed":
        print_table(f"{result.paper}: failed", ("reason",), [[result.reason]])
        return
    from binderclip.studies import load_study

    rows = [["yes" if check.met else "no", check.text, check.measured] for check in result.checks]
    print_table(f"{result.paper}: {result.verdict}", ("met", "criterion", "measured"), rows)
    study = load_study(result.paper)
    typer.echo(f"baseline: {study.baseline}\nlower bound: {study.lower_bound}")
    if study.upper_bound:
        typer.echo(f"upper bound: {study.upper_bound}")
    typer.echo(f"not the real thing: {'; '.join(study.stand_in) or 'nothing'}")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(reproduce)
