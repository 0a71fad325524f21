"""`binderclip reproduce`: run the studies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.shared.options import Json
from binderclip.cli.shared.output import note, print_json, print_table
from binderclip.errors import BinderclipError, UsageError
from binderclip.tasks.fields import MOST_SEED
from binderclip.tasks.files.outputs import OUTPUT, output_folder, writable_path
from binderclip.tasks.files.results import REPORT, ask_for_room, save_or_keep

if TYPE_CHECKING:
    from binderclip.studies import Check, Result


MOST_SEEDS = 100
FAILED = "failed"
"""Folder, among the results, of runs that failed where there was a result."""


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
        OUTPUT,
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, separated by commas [default: the study's own].")] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="About a minute: one seed, nothing written, no verdict.")
    ] = False,
    judge: Annotated[
        bool, typer.Option("--judge", help="Judge the stored rows of docs/results anew; nothing is measured.")
    ] = False,
    again: Annotated[
        str, typer.Option(help="Why a stored result is measured or judged again; kept beside the former verdict.")
    ] = "",
    json: Json = False,
) -> None:
    """Measure the claim of a paper at laptop scale, against a fair baseline, and say what was found.

    A study takes at most about 15 minutes on two cores. The verdict is `reproduced`, `in part`, `no effect of X or
    more`, `opposite here`, `not testable here` or `undecided`, by criteria with intervals that stand in its file.

    Examples:

        binderclip reproduce p162

        binderclip reproduce p162 --quick

        binderclip reproduce --all
    """
    from binderclip.papers import paper as find
    from binderclip.studies import available, checkout, load_study, papers_page, results_in

    if all_ == (paper is not None):
        raise UsageError("name one paper, or give --all")
    if quick and (judge or again or out):
        raise UsageError("--quick writes nothing and gives no verdict: leave out --judge, --again and --out")
    chosen = list(available()) if paper is None else [find(paper).id]
    if judge:
        _judge(chosen, json, again)
        return
    if paper is not None:
        load_study(chosen[0])
    numbers = _seeds(seeds)
    if out is not None:
        output_folder(out, make=False)
    root = checkout()
    whole = all_ and out is None and root is not None
    folder = Path(out) if out else root / "docs" / "results" if whole and root is not None else Path("runs/studies")
    if not quick:
        ask_for_room(folder, REPORT)
        for identifier in chosen:
            _check_files(folder, identifier)
    results = [_quick(paper, numbers) if quick else _measure(paper, numbers, folder, again) for paper in chosen]
    if whole and not quick and root is not None:
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


def _check_files(folder: Path, paper: str) -> None:
    """Refuse results that would replace what no study left, before hours of measuring.

    Raises:
        UsageError: names the file.
    """
    from binderclip.studies import read

    def by_a_study(_: Path) -> bool:
        try:
            return read(folder / f"{paper}.json").paper == paper
        except (BinderclipError, OSError, ValueError, KeyError, TypeError, AttributeError):
            return False

    for ending in ("json", "md", "png"):
        if (place := folder / f"{paper}.{ending}").exists():
            writable_path(place, ours=by_a_study)


def _measure(paper: str, seeds: list[int] | None, folder: Path, again: str) -> Result:
    """Run, keep the verdicts of what the folder holds, and write.

    A run that failed (a data set is missing, say) has measured nothing that could stand for what was measured before:
    that stays, and the rows that there are go beside it.
    """
    from binderclip.studies import after, read, run_study, save

    result = run_study(paper, seeds, note)
    path = folder / f"{paper}.json"
    former = read(path) if path.is_file() else None
    if result.verdict == "failed" and former is not None and former.verdict != "failed":
        path = folder / FAILED / path.name
        save_or_keep(lambda place: save(result, place), path.parent)
    else:
        result = after(result, former, again)
        save_or_keep(lambda place: save(result, place), folder)
    note(f"{paper}: {result.said} in {result.seconds:.0f} s, {path}")
    return result


def _quick(paper: str, seeds: list[int] | None) -> Result:
    """One seed; nothing is written."""
    from binderclip.studies import run_study, stored_result

    stored = stored_result(paper)
    if stored is not None:
        note(f"{paper}: a whole seed took {stored.seconds / len(stored.seeds):.0f} s when it was measured")
    return run_study(paper, seeds, note, quick=True)


def _judge(chosen: list[str], json: bool, why: str) -> None:
    """Judge stored results by the criteria of today, and write them and the page."""
    from binderclip.studies import checkout, judge_again, load_study, papers_page, results_in, save

    root = checkout()
    if root is None:
        raise UsageError("--judge needs a checkout of the source, with docs/results")
    folder = root / "docs" / "results"
    stored = results_in(folder)
    missing = [identifier for identifier in chosen if identifier not in stored]
    if len(missing) == len(chosen):
        raise UsageError(f"{folder}: no stored result of {', '.join(missing)}")
    if missing:
        note(f"registered and not measured yet, so left out: {', '.join(missing)}")
    kept = [identifier for identifier in chosen if identifier in stored]
    results = [judge_again(stored[identifier], load_study(identifier), why) for identifier in kept]
    for result in results:
        save(result, folder, figure=False)
    (root / "docs" / "PAPERS.md").write_text(papers_page(results_in(folder)), encoding="utf-8")
    if json:
        print_json([_document(result, folder) for result in results])
    else:
        rows = [[r.paper, r.said, r.history[-1].verdict if r.history else "", r.reason] for r in results]
        print_table("judged again", ("paper", "verdict", "before", "reason"), rows)


def _seeds(text: str) -> list[int] | None:
    if not text.strip():
        return None
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--seeds {text!r}: whole numbers separated by commas, such as 0,1,2") from None
    if len(seeds) > MOST_SEEDS or not all(0 <= seed <= MOST_SEED for seed in seeds):
        raise UsageError(f"--seeds {text!r}: at most {MOST_SEEDS} whole numbers from 0 to {MOST_SEED}")
    if len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds {text!r} names a seed twice")
    return seeds


def _document(result: Result, folder: Path) -> dict[str, Any]:
    return {
        "paper": result.paper,
        "verdict": result.said,
        "reason": result.reason,
        "history": [vars(former) for former in result.history],
        "checks": [vars(check) for check in result.checks],
        "seconds": round(result.seconds, 1),
        "folder": folder,
    }


def _print(result: Result) -> None:
    if result.verdict == "failed":
        print_table(f"{result.paper}: failed", ("reason",), [[result.reason]])
        return
    from binderclip.studies import load_study

    if result.checks:
        rows = [[check.word, _named(check), check.shown or check.measured] for check in result.checks]
        print_table(f"{result.paper}: {result.said}", ("outcome", "criterion", "measured"), rows)
        if result.reason:
            typer.echo(f"why: {result.reason}")
    else:
        rows = [[row.metric, row.method, row.setting, f"{row.value:.4g}"] for row in result.rows]
        print_table(f"{result.paper}: {result.said}", ("metric", "method", "setting", "value"), rows)
    study = load_study(result.paper)
    typer.echo(f"baseline: {study.baseline}\nlower bound: {study.lower_bound}")
    if study.upper_bound:
        typer.echo(f"upper bound: {study.upper_bound}")
    typer.echo(f"not the real thing: {'; '.join(study.stand_in) or 'nothing'}")


def _named(check: Check) -> str:
    """The criterion with its role where it is not essential."""
    if check.role != "criterion":
        return f"{check.text} ({check.role})"
    return check.text if check.essential else f"{check.text} (not essential)"


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(reproduce)
