"""`binderclip geometry`: where a model's pictures and texts lie in its space."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from binderclip.cli.shared.options import BatchSize, Device, Dtype, Json
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.tasks.files.outputs import OUTPUT, writable_path
from binderclip.tasks.files.results import REPORT, ask_for_room, save_or_keep

MEANING = {
    "offset": "length of the mean over the mean length: 0 for a cloud about the origin",
    "ellipsoid": "largest variance of a feature over the median one: 1 for a ball",
    "shell": "distance to the mean, in deviations, over the root of the width: 1 for a thin shell",
    "shell_spread": "deviation of that distance: near 0 for a thin shell",
    "within": "share of embeddings within 10 % of the mean distance",
    "rank": "directions that the cloud effectively fills",
    "conformity": "mean cosine with all others of its kind",
    "estimate": "correlation of conformity with the cosine to the mean",
    "uniformity": "lower is more evenly spread over the sphere",
    "gap": "distance between the means of unit embeddings of pictures and texts",
    "alignment": "squared distance of a picture and its own text",
    "separability": "accuracy of a linear model that tells pictures from texts: 0.5 is chance",
    "threshold": "the same of the best single feature",
    "divergence": "between the conformities of pictures and texts, in nats",
}


def geometry(
    model: Annotated[
        str, typer.Argument(help="A bundled model, `open_clip:ARCH/PRETRAINED`, `hf:REPO_OR_FOLDER`, or a run folder.")
    ] = "small",
    data: Annotated[
        str, typer.Option(help="Pictures with captions: a folder, a zip, Parquet files, or a named set.")
    ] = "openmoji",
    split: Annotated[str | None, typer.Option(help="Of a named set, or `all` [default: the held-out one].")] = None,
    limit: Annotated[int | None, typer.Option(min=20, max=10**6, help="Use only the first so many pictures.")] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="The report: plots, tables, unusual pictures."), OUTPUT
    ] = Path("geometry.html"),
    report: Annotated[bool, typer.Option(help="Write the report.")] = True,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """Where a model puts pictures and texts: the gap between them, their shells, and what closing the gap does.

    Examples:

        binderclip geometry small

        binderclip geometry open_clip:ViT-B-32/openai --data holiday/ --out holiday.html

    What is fitted, such as the means that the gap is removed by, is fitted on half of the pairs and measured on the
    other half. Whitening gives every embedding a likelihood, by which the report shows usual and unusual pictures; it
    needs four times as many pairs as the model has dimensions.
    """
    if report:
        ask_for_room(writable_path(out), REPORT)
    from binderclip.cli.verbs.geometry.run import measured

    with stages("loading the model") as say:
        found = measured(model, data, split, limit, say, device=device, dtype=dtype, batch_size=batch_size)
        if report:
            from binderclip.cli.verbs.geometry.report import write_report

            say("writing the report")
            save_or_keep(partial(write_report, found), out)
    if json:
        print_json({**found.as_dict(), "report": out if report else None})
    else:
        title = f"{found.model} on {found.source}: {number_of(len(found.pairs.image), 'pair')}"
        print_table(title, ("measure", "image", "text", "which is"), figure_rows(found.report.table()))
        print_table("recall of the second half", *recall_table(found.recall))
        for line in found.left_out:
            note(f"not measured: {line}")
    warn_skipped(found.skipped)
    if report and not json:
        note(f"report {out}")


def figure_rows(table: list[dict[str, Any]]) -> list[tuple[str, str, str, str]]:
    """(measure, image, text, what it means) of every figure; what is of both modalities has one value."""
    rows = []
    for row in table:
        name, own = row["measure"], (f"{row['image']:.3f}", f"{row['text']:.3f}")
        both = name in ("gap", "alignment", "separability", "threshold", "divergence")
        rows.append((name.replace("_", " "), own[0], "" if both else own[1], MEANING[name]))
    return rows


def recall_table(recall: Mapping[str, Mapping[str, float]]) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """(columns, rows): a row for each map in front of the cosine."""
    measures = ("text_to_image/R@1", "text_to_image/R@10", "image_to_text/R@1", "image_to_text/R@10")
    columns = ("embeddings", *(name.replace("_", " ").replace("/", " ") for name in measures))
    return columns, [(name, *(own[measure] for measure in measures)) for name, own in recall.items()]


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(geometry)
