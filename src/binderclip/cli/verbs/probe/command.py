"""`binderclip probe`: for which groups of pictures a model is worse, and whether chance alone could be the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.shared.options import DEFAULT_MODEL, LABELS, MOST_SEED, BatchSize, Device, Dtype, Json
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.files.outputs import OUTPUT, output_folder, writable_paths
from binderclip.tasks.files.results import REPORT, ask_for_room, save_or_keep


def probe(
    model: Annotated[
        str, typer.Argument(help="A bundled model, `open_clip:ARCH/PRETRAINED`, `hf:REPO_OR_FOLDER`, or a run folder.")
    ] = DEFAULT_MODEL,
    data: Annotated[
        str,
        typer.Option(help="Pictures with classes: a folder, a zip, Parquet files, or a named set."),
    ] = "openmoji",
    groups: Annotated[
        list[str] | None,
        typer.Option(
            "--groups",
            "-g",
            help="A column whose values are groups, several joined by commas for their combinations; give it again for "
            "another grouping [default: every column with 2 to 12 values].",
        ),
    ] = None,
    labels: Annotated[str | None, LABELS] = None,
    positive: Annotated[
        str | None, typer.Option(help="A class that is a decision: also compare how often it is said, and rightly.")
    ] = None,
    templates: Annotated[str, typer.Option("--templates", "-t", help="Sentences around a class name.")] = "simple",
    split: Annotated[str | None, typer.Option(help="Of a named set, or `all` [default: the held-out one].")] = None,
    limit: Annotated[int | None, typer.Option(min=20, max=10**6, help="Use only the first so many pictures.")] = None,
    draws: Annotated[
        int, typer.Option(min=100, max=20_000, help="Resamples, and permutations; more where many gaps need it.")
    ] = 1000,
    null: Annotated[
        str,
        typer.Option(
            help="What chance is: `given` shuffles groups within each class, `all` over all pictures, for groups that "
            "share no class."
        ),
    ] = "given",
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of the draws and of the halves.")] = 0,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the page, the table and the figures."), OUTPUT
    ] = Path("probe"),
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """For which groups of pictures a model is worse: gaps with intervals, what chance alone makes, and what helps.

    Examples:

        binderclip probe small --data openmoji --groups concept_split

        binderclip probe small --data birds/ --groups background --positive gull --out birds-probe

    Pictures are classified once; `predictions.parquet` keeps every score, and all else comes from it. A gap counts as
    found where shuffled groups make one as large in less than 5 % of cases, over all gaps of the page. Mitigations are
    fitted on one half of the pictures and measured on the other.
    """
    if null not in ("given", "all"):
        raise UsageError(f"--null {null}: it is given or all")
    folder = output_folder(out, make=False)
    page = folder / "report.html"
    writable_paths([page, folder / "probe.json"])
    writable_paths([folder / "groups.csv", folder / "predictions.parquet"], beside=folder / "probe.json")
    ask_for_room(folder, REPORT)
    from binderclip.tasks.events import start
    from binderclip.tasks.verbs.probe.report import GAP_COLUMNS, gap_rows, write_results
    from binderclip.tasks.verbs.probe.run import probed

    with stages("loading the model"):
        found = probed(
            model, data, [tuple(part.strip() for part in one.split(",")) for one in groups or ()], split, limit,
            labels=None if labels is None else parse_labels(labels), positive=positive, templates=templates,
            draws=draws, null="all" if null == "all" else "given", seed=seed, device=device, dtype=dtype,
            batch_size=batch_size,
        )  # fmt: skip
        start("writing the page")
        save_or_keep(lambda place: write_results(found, output_folder(place)), folder)
    if json:
        print_json({**found.as_dict(), "report": page})
    else:
        for report in found.reports:
            title = (
                f"{found.model} on {found.source}, by {' x '.join(report.names)}: "
                f"{number_of(report.compared, 'group')} compared"
            )
            print_table(title, GAP_COLUMNS, gap_rows(report))
        for line in found.left_out:
            note(f"left out: {line}")
    warn_skipped(found.skipped)
    if not json:
        note(f"report {page}")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(probe)
