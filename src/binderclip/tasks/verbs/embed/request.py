"""What `embed` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from binderclip.models.files.registry import DEFAULT
from binderclip.tasks.fields import AllowPipe, BatchSize, Device, Dtype, Model, Ray, Workers
from binderclip.tasks.request import Option, Request


class EmbedRequest(Request):
    """Encode every picture and caption of a pool once: a Parquet part for each shard.

    Examples:

        binderclip embed "shards/x-{000..009}.tar" --out embedded

        binderclip embed s3://web/shards/ --out s3://web/embedded --ray auto --device cuda -m open_clip:ViT-B-32/openai

    A part has uid, name, text, image_embedding and caption_embedding. A second run goes on where one was interrupted;
    `binderclip curate DIR` takes the folder as a pool.
    """

    task: ClassVar[str] = "embed"

    data: Annotated[
        str,
        Option(
            "The pool: shards `x-{000..009}.tar`, a folder of them or of pictures with captions, also at "
            "`s3://BUCKET/FOLDER`; Parquet with pictures, or a named set.",
            positional=True,
        ),
    ]
    out: Annotated[str, Option("Folder of the parts; may be `s3://BUCKET/FOLDER`.", ("--out", "-o"), output=True)]
    split: Annotated[str | None, Option("Of a named set or folder [default: everything].")] = None
    stored: Annotated[Literal["float16", "float32"], Option("Numbers of the embeddings on disk.")] = "float16"
    no_captions: Annotated[
        bool, Option("Take the pictures of a folder alone, whatever is beside them.", ("--no-captions",))
    ] = False
    workers: Workers = None
    ray: Ray = None
    allow_pipe: AllowPipe = False
    model: Model = DEFAULT
    device: Device = "cpu"
    dtype: Dtype = "float32"
    batch_size: BatchSize = 64
