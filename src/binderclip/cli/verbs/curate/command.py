"""`binderclip curate`: which image-text pairs of a pool to train on, by a recipe."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer

from binderclip.cli.shared.cluster import Ray, Workers, shard_runner
from binderclip.cli.shared.options import AllowPipe, Device, Dtype, Json
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.plan import (
    MANY,
    PANEL,
    Bandwidth,
    Cores,
    MachineCount,
    Memory,
    PictureBytes,
    Plan,
    PlanOptions,
    Price,
    Samples,
    bounded,
    show_plan,
)
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.files.outputs import OUTPUT, output_folder, outside_pool, writable_paths

FOLDER = "curated"
REPORT = "report.json"


class PoolKind(str, Enum):
    """What a plan takes a pool to be."""

    shards = "shards"
    embedded = "embedded"


def curate(
    data: Annotated[
        str | None,
        typer.Argument(
            help="The pool: shards `x-{000..009}.tar` or a folder of them, a folder of pictures with captions, Parquet "
            "files, DataComp's metadata (Parquet with `uid` and `text`, `.npz` beside), or a named set."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="A TOML file of stages, or a preset by name (see --list).")
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder of the selection, the table of samples and the report; may be `s3://BUCKET/FOLDER` "
            "[default: curated].",
        ),
        OUTPUT,
    ] = None,
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Another value of the recipe, such as stage.0.fraction=0.2."),
    ] = None,
    shards: Annotated[bool, typer.Option("--shards", help="Also write the kept samples as tar shards.")] = False,
    split: Annotated[str | None, typer.Option(help="Of a named set or folder [default: everything].")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help="Computes clip_score and other signals [default: the recipe's, or everyday]."
        ),
    ] = None,
    workers: Workers = None,
    ray: Ray = None,
    listing: Annotated[bool, typer.Option("--list", help="List presets, rules and columns.")] = False,
    allow_pipe: AllowPipe = False,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
    plan: Plan = False,
    samples: Samples = None,
    machines: MachineCount = None,
    cores: Cores = None,
    memory: Memory = None,
    price: Price = None,
    bandwidth: Bandwidth = None,
    picture_bytes: PictureBytes = None,
    pool: Annotated[
        PoolKind | None, typer.Option(help="Shards, or what `embed` left [default: shards].", rich_help_panel=PANEL)
    ] = None,
    kept: Annotated[
        str | None,
        typer.Option(
            help="Shares that the stages keep, `0.6,0.3`, or `report.json` of a run on a part of the pool.",
            metavar="SHARES|FILE",
            rich_help_panel=PANEL,
        ),
    ] = None,
    width: Annotated[int | None, bounded("--width", "Numbers of an embedding [default: 512].", 1, MANY)] = None,
    encode_rate: Annotated[
        str | None,
        typer.Option(
            help="Pictures and captions that a worker encodes a second, `900,4000` [default: as the model was "
            "measured: `everyday` and `small`].",
            metavar="NUMBERS",
            rich_help_panel=PANEL,
        ),
    ] = None,
) -> None:
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
    if listing:
        _list(json)
        return
    own = {"--pool": pool, "--kept": kept, "--encode-rate": encode_rate, "--width": width}
    asked = PlanOptions(samples, machines, cores, memory, price, bandwidth, picture_bytes, own)
    asked.refuse_without(plan)
    if plan:
        if data is not None:
            raise UsageError(f"a plan needs no pool, only its size: leave {data} out and give --samples")
        if recipe is None:
            raise UsageError("give a recipe to plan, such as --recipe datacomp-clip-score; see --list")
        from binderclip.cli.verbs.curate.plan import planned

        found = planned(
            recipe, set or [], asked, shards=shards, kind="parts" if pool is PoolKind.embedded else "shards",
            kept=kept, encode=encode_rate, model=model, width=width,
        )  # fmt: skip
        show_plan(found, recipe, out, json=json)
        return
    out = FOLDER if out is None else out
    if data is None or recipe is None:
        raise UsageError("give a pool and a recipe, such as `curate photos/ --recipe exact-duplicates`; see --list")

    from binderclip.curate import read_recipe
    from binderclip.data.storage import is_object
    from binderclip.tasks.verbs.curate.run import curated

    outside_pool(out, data)
    if not is_object(out):
        folder = output_folder(out, make=False)
        writable_paths([folder / REPORT, folder / "report.html"])
        writable_paths([folder / "selection.npy", folder / "samples.parquet"], beside=folder / REPORT)
    checked = read_recipe(recipe, set or [])
    with stages("opening the pool"), shard_runner(ray, workers, device) as runner:
        done = curated(
            data, checked, out, split=split, model=model, device=device, dtype=dtype, workers=workers or 1,
            shards=shards, allow_pipe=allow_pipe, runner=runner,
        )  # fmt: skip
    report = done.curated.report
    if json:
        print_json({"data": data, "recipe": recipe, "out": done.folder, **report.as_dict(), "files": done.files})
    else:
        share = report.kept / max(report.entered, 1)
        print_table(
            f"{data}: {report.kept:,} of {number_of(report.entered, 'sample')} kept ({share:.1%})",
            ("stage", "in", "out", "share"),
            [(name, entered, kept, part) for name, _, entered, kept, part in report.rows()],
        )
        for file in done.files:
            typer.echo(file)
    if report.entered and not report.kept:
        note("nothing is kept: the first stage whose `out` is 0 says where it went")
    warn_skipped(report.skipped)


def _list(json: bool) -> None:
    from binderclip.curate import PRESETS, SIGNALS, SUMMARIES

    presets = {name: str(make.__doc__).partition("\n")[0].removesuffix(".") for name, make in PRESETS.items()}
    if json:
        print_json({"presets": presets, "rules": SUMMARIES, "columns": SIGNALS})
        return
    for title, rows in (("presets", presets), ("rules", SUMMARIES), ("columns that are computed", SIGNALS)):
        print_table(title, ("name", "what it is"), list(rows.items()))


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(curate)
