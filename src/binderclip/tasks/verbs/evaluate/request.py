"""What `evaluate` is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.tasks.fields import AllowPipe, BatchSize, Device, Dtype, HeldOutSplit, ModelArgument, Transform
from binderclip.tasks.request import Option, Request


class EvaluateRequest(Request):
    """Measure a model: recall of captions and images, and zero-shot accuracy where the data has classes.

    Examples:

        binderclip evaluate small --data noto-emoji --split val

        binderclip evaluate small --data pets/ --templates photo

        binderclip evaluate small --data openmoji --transform gap-removal

    Of a folder with one sub-folder a class the accuracy comes first: which class name is most similar.
    """

    task: ClassVar[str] = "evaluate"

    model: ModelArgument
    data: Annotated[
        str,
        Option(
            "A folder or zip of images with captions or class-named folders, a COCO folder, Parquet files, shard URLs "
            "`x-{000..009}.tar` or a folder of them, or a named set: `openclipart`, `noto-emoji`, `icons`, "
            "`openmoji`, `fashion-mnist`, `digits`, `photographs`, `textile`."
        ),
    ] = "openclipart"
    split: HeldOutSplit = None
    templates: Annotated[str, Option("Sentences around a class name.", ("--templates", "-t"))] = "simple"
    limit: Annotated[int | None, Field(ge=1, le=10**9), Option("Use only the first so many pictures.")] = None
    out: Annotated[Path | None, Option("Also write the figures to this JSON file.", ("--out", "-o"), output=True)] = (
        None
    )
    transform: Transform | None = None
    allow_pipe: AllowPipe = False
    device: Device = "cpu"
    dtype: Dtype = "float32"
    batch_size: BatchSize = 64
