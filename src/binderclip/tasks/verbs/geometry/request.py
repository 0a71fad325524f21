"""What `geometry` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.tasks.fields import BatchSize, Device, Dtype, HeldOutSplit, ModelArgument
from binderclip.tasks.request import Option, Request


class GeometryRequest(Request):
    """Where a model puts pictures and texts: the gap between them, their shells, and what closing the gap does.

    Examples:

        binderclip geometry small

        binderclip geometry open_clip:ViT-B-32/openai --data holiday/ --out holiday.html

    What is fitted, such as the means that the gap is removed by, is fitted on half of the pairs and measured on the
    other half. Whitening gives every embedding a likelihood, by which the report shows usual and unusual pictures; it
    needs four times as many pairs as the model has dimensions.
    """

    task: ClassVar[str] = "geometry"

    model: ModelArgument = "small"
    data: Annotated[str, Option("Pictures with captions: a folder, a zip, Parquet files, or a named set.")] = "openmoji"
    split: HeldOutSplit = None
    limit: Annotated[int | None, Field(ge=20, le=10**6), Option("Use only the first so many pictures.")] = None
    out: Annotated[str, Option("The report: plots, tables, unusual pictures.", ("--out", "-o"), output=True)] = (
        "geometry.html"
    )
    report: Annotated[bool, Option("Write the report.")] = True
    device: Device = "cpu"
    dtype: Dtype = "float32"
    batch_size: BatchSize = 64
