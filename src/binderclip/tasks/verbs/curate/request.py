"""What `curate` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import AllowPipe, Device, Dtype, Ray, Workers
from binderclip.tasks.plan import MANY, PANEL, PlannedRequest, plan_option
from binderclip.tasks.request import Option


class CurateRequest(PlannedRequest):
    """Choose the pairs of a pool to train on: filters, deduplication, balancing, pruning, as a recipe says.

    Examples:

        binderclip curate photos/ --recipe exact-duplicates

        binderclip curate "shards/x-{000..009}.tar" --recipe datacomp-clip-score --out picked --shards

        binderclip curate metadata/ --recipe mine.toml --set stage.0.fraction=0.2 --set seed=1

        binderclip curate --recipe datacomp-clip-score --plan --samples 1e9 --machines 20 --cores 32 --memory 256

    Leaves selection.npy (sorted keys, as DataComp's tools read them), samples.parquet (every sample, the stage that
    dropped it, its scores), report.html and report.json. The result does not depend on shards, workers or
    interruptions; what was computed of files is kept in columns/, and the same command goes on from there. With --ray
    other machines compute the columns, and have to see the pool and columns/.
    """

    task: ClassVar[str] = "curate"

    data: Annotated[
        str | None,
        Option(
            "The pool: shards `x-{000..009}.tar` or a folder of them, a folder of pictures with captions, Parquet "
            "files, DataComp's metadata (Parquet with `uid` and `text`, `.npz` beside), or a named set.",
            positional=True,
        ),
    ] = None
    recipe: Annotated[
        str | None, Option("A TOML file of stages, or a preset by name (see --list).", ("--recipe", "-r"))
    ] = None
    out: Annotated[
        str | None,
        Option(
            "Folder of the selection, the table of samples and the report; may be `s3://BUCKET/FOLDER` [default: "
            "curated].",
            ("--out", "-o"),
            output=True,
        ),
    ] = None
    set: Annotated[
        list[str], Option("Another value of the recipe, such as stage.0.fraction=0.2.", ("--set",), metavar="KEY=VALUE")
    ] = []
    shards: Annotated[bool, Option("Also write the kept samples as tar shards.", ("--shards",))] = False
    split: Annotated[str | None, Option("Of a named set or folder [default: everything].")] = None
    model: Annotated[
        str | None,
        Option("Computes clip_score and other signals [default: the recipe's, or everyday].", ("--model", "-m")),
    ] = None
    workers: Workers = None
    ray: Ray = None
    listing: Annotated[bool, Option("List presets, rules and columns.", ("--list",))] = False
    allow_pipe: AllowPipe = False
    device: Device = "cpu"
    dtype: Dtype = "float32"
    pool: Annotated[
        Literal["shards", "embedded"] | None, Option("Shards, or what `embed` left [default: shards].", panel=PANEL)
    ] = None
    kept: Annotated[
        str | None,
        Option(
            "Shares that the stages keep, `0.6,0.3`, or `report.json` of a run on a part of the pool.",
            metavar="SHARES|FILE",
            panel=PANEL,
        ),
    ] = None
    width: Annotated[int | None, Field(ge=1, le=MANY), plan_option("Numbers of an embedding [default: 512].")] = None
    encode_rate: Annotated[
        str | None,
        Option(
            "Pictures and captions that a worker encodes a second, `900,4000` [default: as the model was measured: "
            "`everyday` and `small`].",
            metavar="NUMBERS",
            panel=PANEL,
        ),
    ] = None

    @model_validator(mode="after")
    def _fits(self) -> CurateRequest:
        if self.listing:
            return self
        if self.plan and self.data is not None:
            raise UsageError(f"a plan needs no pool, only its size: leave {self.data} out and give --samples")
        if self.plan and self.recipe is None:
            raise UsageError("give a recipe to plan, such as --recipe datacomp-clip-score; see --list")
        if not self.plan and (self.data is None or self.recipe is None):
            raise UsageError("give a pool and a recipe, such as `curate photos/ --recipe exact-duplicates`; see --list")
        return self
