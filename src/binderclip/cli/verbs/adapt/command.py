"""`binderclip adapt`: the best classifier for your labelled pictures, how sure it is, and where it fails."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.shared.options import DEFAULT_MODEL, MOST_SEED, Device, Dtype, Json, Model, finite
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import duration, number_of
from binderclip.errors import UsageError
from binderclip.tasks.files.outputs import OUTPUT, output_folder, writable_paths
from binderclip.tasks.files.results import REPORT, ask_for_room
from binderclip.tasks.verbs.adapt.run import choose_head
from binderclip.tasks.verbs.adapt.wording import interval_text, labels_verdict, verdict

if TYPE_CHECKING:
    from binderclip.adapt.selection import LabelSelection, Selection


def adapt(
    data: Annotated[
        str,
        typer.Argument(
            help="A folder of class-named folders, a CSV (`file,label`, or `file,labels` with `a;b` for several), or a "
            "named set: `digits`, `fashion-mnist`, ..."
        ),
    ],
    shots: Annotated[
        int, typer.Option(min=1, max=100_000, help="Pictures a class to learn from, validation included.")
    ] = 16,
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="`auto` (what fits the budget, not those trained on images), `all`, or names: `gda,linear-probe`.",
        ),
    ] = "auto",
    seeds: Annotated[
        int, typer.Option(min=1, max=1000, help="Independent draws of the shots; the intervals are over them.")
    ] = 3,
    folds: Annotated[int, typer.Option(min=2, max=1000, help="Folds of the cross-validation inside the shots.")] = 4,
    budget: Annotated[
        float,
        typer.Option(min=0, max=1e7, callback=finite, help="Seconds it may take; what does not fit is left out."),
    ] = 540.0,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="The same seed gives the same table.")] = 0,
    templates: Annotated[
        str, typer.Option("--templates", "-t", help="How a class name becomes sentences: a set, or one with `{}`.")
    ] = "simple",
    keep: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            callback=finite,
            help="Share of pictures of your classes that 'none of these' must not refuse.",
        ),
    ] = 0.95,
    limit: Annotated[
        int | None,
        typer.Option(min=2, max=10**9, help="Most pictures a class that are looked at [default: about 4,000 in all]."),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for the head, the report and finished work."), OUTPUT
    ] = Path("adapt"),
    report: Annotated[bool, typer.Option(help="Write report.html.")] = True,
    model: Model = DEFAULT_MODEL,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Find the best classifier for your pictures among all methods, and say how far to trust it.

    Every method learns from the same few pictures a class and is judged by cross-validation inside them; the test
    part is looked at once, by the winner and the second. The winner is saved for `binderclip classify --head`.
    Stopped half-way, the same command goes on where it was.

    Examples:

        binderclip adapt parts/ --shots 16

        binderclip adapt digits --methods gda,linear-probe,zero-shot --out runs/digits

        binderclip classify new/ --head adapt
    """
    output_folder(out, make=False)
    writable_paths([out / name for name in ("head.json", "figures.json", *(["report.html"] if report else []))])
    writable_paths([out / "head.safetensors"], beside=out / "head.json")
    names = methods if methods in ("auto", "all") else [name.strip() for name in methods.split(",") if name.strip()]
    if not names:
        raise UsageError("--methods is empty: auto, all, or names such as gda,linear-probe")

    from binderclip.adapt.selection import label_sets
    from binderclip.data import ImageTextDataset, load_data
    from binderclip.models import load, resolve_templates

    sentences = resolve_templates(templates)
    samples = load_data(data)
    if not isinstance(samples, ImageTextDataset):
        raise UsageError(f"{data}: shards are streamed, which few-shot draws cannot use; give a folder or a named set")
    several = label_sets(samples) is not None
    began = time.monotonic()
    with stages("loading the model") as say:
        clip = load(model, device=device, dtype=dtype)
        output_folder(out)
        # A head keeps at most the features of all shots, besides some vectors a class.
        ask_for_room(out, REPORT * report + 4 * clip.embed_dim * max(1, len(samples.classes)) * (shots + 8))
        say("reading pictures")
        options: dict[str, Any] = {
            "shots": shots, "seeds": seeds, "methods": names, "templates": sentences, "folds": folds, "seed": seed,
            "progress": say if several else lambda line: say(line + _at_most(budget - time.monotonic() + began)),
        }  # fmt: skip
        only_one = {"budget": budget, "keep": keep, "limit": limit, "store": out / "finished"}
        found = choose_head(clip, samples, data, out, options, only_one, report=report)
    if json:
        print_json({"data": data, **found.figures(), "skipped": found.encoded.skipped})
    elif several:
        _print_labels(found, data)
    else:
        _print(found, data)
    warn_skipped(found.encoded.skipped)
    note(f"head {out}" + (f", report {out / 'report.html'}" if report else ""))


def _at_most(seconds: float) -> str:
    return f"; at most {duration(seconds)} left" if seconds > 0 else ""


def _print_labels(found: LabelSelection, data: str) -> None:
    print_table(
        f"{data}: {number_of(len(found.labels), 'label')}, several a picture, {number_of(found.shots, 'shot')}, "
        "cross-validated inside them, "
        f"{found.seeds} draws, model {found.model}",
        ["method", "mAP", "95%", "macro-F1", "fit s"],
        [
            [s.name, s.mean_average_precision.value, interval_text(s.mean_average_precision), s.macro_f1, s.seconds]
            for s in found.scores
        ],
    )
    for line in labels_verdict(found):
        typer.echo(line)
    for line in found.notes:
        note(f"note: {line}")


def _print(found: Selection, data: str) -> None:
    single = any(not score.by_seed for score in found.scores)
    if not single:
        print_table(
            f"{data}: {number_of(len(found.classes), 'class')}, {number_of(found.shots, 'shot')}, "
            "cross-validated inside them, "
            f"{found.seeds} draws, model {found.model}",
            ["method", "accuracy", "95%", "macro-F1", "cal. error", "fit s", "trained"],
            [_row(score) for score in found.scores],
        )
    for line in verdict(found):
        typer.echo(line)
    for line in found.notes:
        note(f"note: {line}")
    for name, why in found.left_out:
        note(f"left out {name}: {why}")


def _row(score: Any) -> list[Any]:
    interval = score.accuracy
    return [
        score.name,
        interval.value,
        interval_text(interval),
        score.macro_f1,
        score.calibration,
        score.seconds,
        score.parameters,
    ]


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(adapt)
