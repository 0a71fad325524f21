"""`binderclip detect`: which pictures are generated, by a bundled detector or one trained on your own folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.shared.options import MOST_SEED, Device, Json
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.events import batches
from binderclip.tasks.files.inputs import find_images
from binderclip.tasks.files.outputs import OUTPUT, output_folder, writable_path
from binderclip.tasks.files.writing import short_path, write_csv

if TYPE_CHECKING:
    from binderclip.evaluate import DetectorSanityCheck
    from binderclip.tasks.verbs.detect.run import Detected
    from binderclip.tasks.verbs.detect.train import TrainedDetector

SHOWN = 20
SMALL = "small-detector"
FIGURES = ("generator", "seen", "real right", "95%", "fake found", "95% ", "AP", "best threshold", "real", "fake")
TABLE = ("image", "logit", "probability")
CONTROLS = ("real pictures after", "called fake", "before", "p", "finding")


def detect(
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Pictures, or folders of them; one folder with 0_real/ and 1_fake/ is measured as well."),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            help="File of a detector that --train has written. Default: small-detector, which knows copies by small "
            "autoencoders and no more."
        ),
    ] = None,
    train: Annotated[
        Path | None,
        typer.Option(
            help="Train a detector instead, on a folder with 0_real/ and 1_fake/GENERATOR/, or GENERATOR/ of both."
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File of the trained detector."), OUTPUT] = None,
    method: Annotated[
        str,
        typer.Option(
            help="`linear`: a line on the embedding; `panoptic`: patches exchanged with aligned copies; `aide`: noise "
            "of windows beside the embedding; `deeclip`: tokens of many layers; `noise`: noise of windows alone."
        ),
    ] = "linear",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where a training of this --out stopped, however it stopped.")
    ] = False,
    hold_out: Annotated[
        list[str] | None,
        typer.Option(help="A generator to test on only, not to learn from. Repeat for several."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, max=10**6, help="Training steps.")] = 200,
    batch_size: Annotated[int, typer.Option(min=2, max=4096, help="Pictures a step, or at once.")] = 16,
    lr: Annotated[float, typer.Option(min=1e-8, max=10.0, help="Learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of training, and of what is held out.")] = 0,
    model: Annotated[
        str, typer.Option("--model", "-m", help="That a new detector looks through: small, small-dino, timm:..., ...")
    ] = "small",
    csv: Annotated[
        Path | None, typer.Option(help="All pictures as a table, most likely generated first."), OUTPUT
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(help="Folder for pictures of which patches speak for generated (red) or real (blue)."),
        OUTPUT,
    ] = None,
    most: Annotated[int, typer.Option(min=1, max=10**5, help="Most maps, most likely generated first.")] = 12,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Say which pictures are generated, by a detector that was trained on real and generated pictures of yours.

    Without one the bundled small-detector looks: it shows how the verb works, and knows no generator of today.

    Examples:

        binderclip detect --train pictures/ --method panoptic --hold-out sdxl --out mine.safetensors

        binderclip detect inbox/ --detector mine.safetensors --csv scores.csv --maps maps/

    A quarter of the pictures is held out from training and measured, generator by generator, and real pictures are
    measured again after mere processing. Training that was stopped goes on with --resume. A detector knows what it was
    trained on: other generators may pass as real.
    """
    given = {"--detector": detector, "the pictures": images or None}
    if train is not None:
        trained_only(train, out, {**given, "--csv": csv, "--maps": maps})
        _train(train, out, method, hold_out or [], steps, batch_size, lr, seed, model, device, json, resume)  # type: ignore[arg-type]
        return
    if not images:
        raise UsageError("give pictures, with --detector FILE for one of yours, or --train DATA --out FILE to make it")
    training = {"--out": out, "--hold-out": hold_out, "--resume": resume}
    if wrong := next((name for name, value in training.items() if value), None):
        raise UsageError(f"{wrong} belongs to --train")
    found = find_images(images, without=str(maps) if maps else None)
    csv_path = writable_path(csv, columns=TABLE) if csv else None
    map_folder = output_folder(maps, make=False) if maps else None
    from binderclip.tasks.verbs.detect.run import detected, places_of_maps, write_maps

    places = {} if map_folder is None else places_of_maps(found.paths, map_folder)
    with stages("loading the detector"):
        step, count = batches("picture"), len(found.paths)
        result = detected(detector or SMALL, found.paths, images, device=device, batch_size=batch_size,
                          progress=lambda done: step(done, count))  # fmt: skip
        drawn = []
        if map_folder is not None and result.rows:
            output_folder(map_folder)
            drawn = write_maps(result, places, most)
    if csv_path is not None:
        write_csv(TABLE, [(key, *values) for key, *values in result.rows], csv_path)
    _show(result, json, drawn, map_folder)
    if not result.rows:
        raise typer.Exit(1)
    raise typer.Exit(found.exit_code(result.skipped))


def trained_only(data: Path, out: Path | None, others: dict[str, Any]) -> None:
    """Refuse what does not go with --train.

    Raises:
        UsageError: no --out, or an option of looking at pictures.
    """
    if out is None:
        raise UsageError(f"--train {data}: say with --out FILE where the detector goes, such as mine.safetensors")
    if wrong := next((name for name, value in others.items() if value), None):
        raise UsageError(f"--train does not go with {wrong}: train first, then look at pictures with --detector {out}")


def _train(
    data: Path, out: Path, method: str, hold_out: list[str], steps: int, batch_size: int, lr: float, seed: int,
    model: str, device: str, json: bool, resume: bool,
) -> None:  # fmt: skip
    target = writable_path(out)
    from binderclip.tasks.verbs.detect.train import trained

    with stages("reading the folders"):
        done: TrainedDetector = trained(
            data, target, method, hold_out, steps=steps, batch_size=batch_size, lr=lr, seed=seed, model=model,
            device=device, resume=resume,
        )  # fmt: skip
    if json:
        print_json({"detector": str(target), **done.card})
    else:
        _tables(done.check, done.title)
        note(f"detector {target}")
    warn_skipped(done.skipped)


def _show(result: Detected, json: bool, drawn: list[Path], folder: Path | None) -> None:
    if json:
        print_json(result.as_dict() | {"maps": [str(path) for path in drawn]})
    elif result.rows:
        count = len(result.rows)
        part = f", the first {SHOWN}" if count > SHOWN else ""
        print_table(
            f"{number_of(count, 'image')}, most likely generated first{part}; {result.title}",
            ("image", "said", "probability", "logit"),
            [
                (short_path(key), "fake" if logit > 0 else "real", chance, logit)
                for key, logit, chance in result.rows[:SHOWN]
            ],
        )
        if result.check is not None:
            _tables(result.check, "by generator")
        for line in result.limits:
            note(line)
        if folder is not None:
            note(f"{number_of(len(drawn), 'map')} in {folder}: red patches speak for generated, blue ones for real")
    warn_skipped(result.skipped)


def _tables(check: DetectorSanityCheck, title: str) -> None:
    """The generators and the controls, and what was found."""
    print_table(
        title,
        FIGURES,
        [
            (
                f.generator, "yes" if f.seen else "no", f.real_accuracy, _interval(f.real_interval), f.fake_accuracy,
                _interval(f.fake_interval), f.average_precision, f.oracle_accuracy, f.n_real, f.n_fake,
            )
            for f in check.figures
        ],
    )  # fmt: skip
    if check.controls:
        rows = [
            (c.processing, c.after, c.before, c.p_value, "a shortcut" if c.shortcut else "could be chance")
            for c in check.controls
        ]
        print_table("real pictures after processing, which makes nothing fake", CONTROLS, rows)
    for line in check.findings:
        note(line)


def _interval(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.2f} to {ends[1]:.2f}"


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(detect)
