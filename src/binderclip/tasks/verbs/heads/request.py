"""What `heads` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.tasks.fields import BatchSize, Device, Dtype, ModelArgument
from binderclip.tasks.request import Option, Request


class HeadsRequest(Request):
    """Say in words what every attention head of a model contributes to its image embeddings (TextSpan).

    Examples:

        binderclip heads small

        binderclip heads open_clip:ViT-B-32/openai --images holiday/ --texts words.txt --out holiday.html

    The share is a head's part of the variance of all the heads that are looked at; `explained` is what its ten texts
    explain of its own. A file that cannot be read is left out and named.
    """

    task: ClassVar[str] = "heads"

    model: ModelArgument = "small"
    images: Annotated[
        str, Option("Pictures to watch the heads on: a folder, or a named set (`openmoji`).", ("--images", "-i"))
    ] = "openclipart,noto-emoji"
    texts: Annotated[
        str | None,
        Option("Descriptions to choose from, one a line [default: 2,000 shipped ones].", ("--texts", "-t")),
    ] = None
    blocks: Annotated[int, Field(ge=1, le=1000), Option("How many of the last blocks are looked at.")] = 4
    top: Annotated[int, Field(ge=1, le=10), Option("Texts of each head that are shown, of the ten chosen.")] = 4
    limit: Annotated[int, Field(ge=2, le=10**6), Option("Most pictures, evenly over all there are.")] = 1000
    out: Annotated[
        str, Option("The report: every head's texts, pictures and heat maps.", ("--out", "-o"), output=True)
    ] = "heads.html"
    report: Annotated[bool, Option("Write the report.")] = True
    device: Device = "cpu"
    dtype: Dtype = "float32"
    batch_size: BatchSize = 32
