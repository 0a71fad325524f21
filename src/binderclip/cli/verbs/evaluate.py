"""`binderclip evaluate`: retrieval and zero-shot accuracy of a model on a data set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.shared.inputs import writable_path
from binderclip.cli.shared.options import AllowPipe, BatchSize, Device, Dtype, Json
from binderclip.cli.shared.output import print_json, print_table, warn_skipped, write_json


def evaluate(
    model: Annotated[
        str, typer.Argument(help="A bundled model, `open_clip:ARCH/PRETRAINED`, `hf:REPO_OR_FOLDER`, or a run folder.")
    ],
    data: Annotated[
        str,
        typer.Option(
            help="A folder or zip of images with captions or class-named folders, a COCO folder, Parquet files, shard "
            "URLs `x-{000..009}.tar` or a folder of them, or a named set: `openclipart`, `noto-emoji`, `icons`, "
            "`openmoji`, `fashion-mnist`, `digits`, `photographs`, `textile`."
        ),
    ] = "openclipart",
    split: Annotated[str | None, typer.Option(help="Of a named set, or `all` [default: the held-out one].")] = None,
    templates: Annotated[str, typer.Option("--templates", "-t", help="Sentences around a class name.")] = "simple",
    limit: Annotated[int | None, typer.Option(min=1, max=10**9, help="Use only the first so many pictures.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Also write the figures to this JSON file.")] = None,
    allow_pipe: AllowPipe = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """Measure a model: recall of captions and images, and zero-shot accuracy where the data has classes.

    Example:

        binderclip evaluate small --data noto-emoji --split val
    """
    if out:
        writable_path(out)

    from binderclip.data import held_out_split, load_data
    from binderclip.evaluate import evaluate_model
    from binderclip.models import load, resolve_templates

    sentences = resolve_templates(templates)
    split = held_out_split(data) if split is None else split
    samples = load_data(data, split=None if split == "all" else split, allow_pipe=allow_pipe)
    clip = load(model, device=device, dtype=dtype)
    result = evaluate_model(clip, samples, templates=sentences, batch_size=batch_size, limit=limit)
    document = {"model": model, "data": data, "split": split, **result.as_dict()}
    if out:
        write_json(document, out)
    if json:
        print_json(document)
    else:
        part = f", split {split}" if split else ""
        print_table(f"{model} on {data}{part}: {result.count} pictures", ("measure", "value"), result.rows())
    warn_skipped(result.skipped)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(evaluate)
