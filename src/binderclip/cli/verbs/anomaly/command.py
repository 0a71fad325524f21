"""`binderclip anomaly`: which pictures of a folder are damaged, and where."""

from __future__ import annotations

from typing import Annotated

import typer

from binderclip.cli.shared.options import MODEL, MOST_SEED, Device, Dtype, Json
from binderclip.cli.verbs.anomaly.shown import inspect
from binderclip.errors import UsageError
from binderclip.tasks.files.outputs import OUTPUT
from binderclip.tasks.verbs.anomaly.inspection import AnomalyRequest
from binderclip.tasks.verbs.anomaly.run import parse_threshold


def anomaly(
    folder: Annotated[str, typer.Argument(help="Folder of pictures; `good/` beside other folders makes it labelled.")],
    name: Annotated[str, typer.Option("--name", "-n", help="What the pictures show, for the words.")] = "object",
    normal: Annotated[
        str | None,
        typer.Option(
            help="Folder of a few normal pictures to compare with, or `none` for words alone "
            "[default: FOLDER/train/good where it is there, else none]."
        ),
    ] = None,
    shots: Annotated[
        int, typer.Option(min=1, max=100_000, help="Most normal pictures that are used, spread over the folder.")
    ] = 16,
    method: Annotated[
        str,
        typer.Option(
            help="`patchcore`, `padim`: normal pictures alone, on a classifier's features; `winclip`: words, and "
            "nearest normal windows; `clap`: restores hidden regions; `auto`: patchcore where there are normal "
            "pictures, winclip without them and with --state, --sound, --scales or --no-words."
        ),
    ] = "auto",
    threshold: Annotated[
        str | None,
        typer.Option(
            help="A picture fails whose score is as high: a number, or `normal` for above every normal picture (each "
            "scored without itself). If one fails, the exit code is 3."
        ),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(help="What damaged means, instead of the usual phrases: `{} with a crack`. Repeat for several."),
    ] = None,
    sound: Annotated[
        list[str] | None, typer.Option(help="What sound means, instead of the usual phrases. Repeat for several.")
    ] = None,
    words: Annotated[
        bool, typer.Option(help="Whether winclip's words count beside normal pictures; weak words mislead the maps.")
    ] = True,
    size: Annotated[
        int | None,
        typer.Option(min=1, max=4096, help="Side at which the model sees a picture, in pixels [default: the model's]."),
    ] = None,
    scales: Annotated[str | None, typer.Option(help="Sides of winclip's windows in patches [default: 2,3].")] = None,
    out: Annotated[
        str, typer.Option("--out", "-o", help="Folder for the report and the pictures."), OUTPUT
    ] = "anomalies",
    most: Annotated[
        int, typer.Option(min=0, max=10**6, help="Most overlays that are drawn, highest scores first.")
    ] = 60,
    npy: Annotated[
        bool, typer.Option("--npy", help="Also save every map as NAME.npy, float32, at its picture's size.")
    ] = False,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MOST_SEED, help="Of what clap, patchcore and padim draw [default: 0]."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=1, max=10**7, help="Training steps of clap's restorer [default: 1875, the paper's]."),
    ] = None,
    model: Annotated[str | None, MODEL] = None,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Score pictures by how anomalous they are, and show where.

    Examples:

        binderclip anomaly examples/wall

        binderclip anomaly parts/ --normal good-parts/ --threshold normal && echo all pass

        binderclip anomaly mvtec/carpet --name carpet --size 240 --model open_clip:ViT-B-16-plus-240/laion400m_e31

        binderclip anomaly scans/ --method clap --normal sound/ --state cracks --state holes --sound smooth --steps 400

    The first wall is one of the pictures that `binderclip.data.write_examples` writes. Leaves scores.csv, an overlay of
    each of the highest, and report.html. Where `good/` and masks say the truth (MVTec AD's layout), AUROC and region
    overlap are measured. --model is lite0, or small for winclip and clap.
    """
    sides = None if scales is None else _sides(scales)
    request = AnomalyRequest(
        folder, name, normal, shots, method, tuple(state or ()), tuple(sound or ()), words, size, sides, out, most,
        npy, seed, steps, model or "auto", device, dtype, json, parse_threshold(threshold),
    )  # fmt: skip
    raise typer.Exit(inspect(request))


def _sides(text: str) -> tuple[int, ...]:
    try:
        sides = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        sides = ()
    if not sides or not all(1 <= side <= 100 for side in sides) or len(sides) > 10:
        raise UsageError(f"--scales {text!r}: up to ten numbers of patches from 1 to 100, such as 2,3")
    return sides


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(anomaly)
