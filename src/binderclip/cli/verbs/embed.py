"""`binderclip embed`: embeddings of the pictures and captions of a pool, as Parquet."""

from __future__ import annotations

from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from binderclip.cli.shared.cluster import Ray, Workers
from binderclip.cli.shared.options import DEFAULT_MODEL, AllowPipe, BatchSize, Device, Dtype, Json, Model
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.tasks.cluster import shard_runner
from binderclip.tasks.events import batches
from binderclip.tasks.files.outputs import OUTPUT, output_folder, outside_pool, writable_path


class Stored(str, Enum):
    """What a number of an embedding is stored as."""

    float16 = "float16"
    float32 = "float32"


def embed(
    data: Annotated[
        str,
        typer.Argument(
            help="The pool: shards `x-{000..009}.tar`, a folder of them or of pictures with captions, also at "
            "`s3://BUCKET/FOLDER`; Parquet with pictures, or a named set."
        ),
    ],
    out: Annotated[str, typer.Option("--out", "-o", help="Folder of the parts; may be `s3://BUCKET/FOLDER`."), OUTPUT],
    split: Annotated[str | None, typer.Option(help="Of a named set or folder [default: everything].")] = None,
    stored: Annotated[Stored, typer.Option(help="Numbers of the embeddings on disk.")] = Stored.float16,
    no_captions: Annotated[
        bool, typer.Option("--no-captions", help="Take the pictures of a folder alone, whatever is beside them.")
    ] = False,
    workers: Workers = None,
    ray: Ray = None,
    allow_pipe: AllowPipe = False,
    model: Model = DEFAULT_MODEL,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    batch_size: BatchSize = 64,
    json: Json = False,
) -> None:
    """Encode every picture and caption of a pool once: a Parquet part for each shard.

    Examples:

        binderclip embed "shards/x-{000..009}.tar" --out embedded

        binderclip embed s3://web/shards/ --out s3://web/embedded --ray auto --device cuda -m open_clip:ViT-B-32/openai

    A part has uid, name, text, image_embedding and caption_embedding. A second run goes on where one was interrupted;
    `binderclip curate DIR` takes the folder as a pool.
    """
    outside_pool(out, data)

    from binderclip.data.storage import is_object

    if not is_object(out):
        output_folder(out, make=False)

    from binderclip.curate import LateModel, embed_shards, open_table
    from binderclip.curate.embed import part_names, read_model
    from binderclip.data import LocalRunner, load_folder
    from binderclip.models import load_encoder

    with stages("opening the pool") as say:
        alone = load_folder(data, split, captions=None) if no_captions else data
        pool = open_table(alone, split, allow_pipe=allow_pipe)
        if not is_object(out):
            # A folder of embeddings says so in its note; parts without one are another's.
            parts = [Path(out, name) for name in part_names(pool.ids) if Path(out, name).exists()]
            for part in parts:
                writable_path(part, ours=lambda _: read_model(out) is not None)
        late = LateModel(partial(load_encoder, model, device=device, dtype=dtype), lambda: say("loading the model"))
        late.open()  # what is wrong with it is said before the pool is read
        try:
            with shard_runner(ray, workers, device) as remote:
                done = embed_shards(
                    pool, out, late, dtype=stored.value, batch_size=batch_size, progress=batches("shard"),
                    runner=remote or LocalRunner(workers or 1),
                )  # fmt: skip
        except KeyboardInterrupt:
            note(f"interrupted: the parts in {out} are whole; the same command goes on from here")
            raise
    if json:
        print_json({"data": data, "model": model, **vars(done)})
    else:
        print_table(
            f"{out}: embeddings of {number_of(done.samples, 'sample')} by {model}",
            ("parts computed", "there before", "samples skipped"),
            [[done.computed, done.found, len(done.skipped)]],
        )
    if done.strangers:
        note(f"of other shards in {out}: {number_of(len(done.strangers), 'file')}, {', '.join(done.strangers[:3])}")
    warn_skipped(done.skipped)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(embed)
