"""`binderclip enhance`: backlit pictures with more even light, by an enhancer of your own two folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binderclip.cli.shared.options import MOST_SEED, Device, Images, Json, Model, finite
from binderclip.cli.shared.output import note, print_json, print_table, warn_skipped
from binderclip.cli.shared.progress import stages
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.files.inputs import find_images
from binderclip.tasks.files.outputs import OUTPUT, output_folder
from binderclip.tasks.files.writing import short_path
from binderclip.tasks.report.photographs import note_weak_on_photographs

if TYPE_CHECKING:
    from binderclip.tasks.verbs.enhance.run import EnhancedPictures

SHOWN = 20
HARDLY = 0.01
"""Mean change of brightness below which nobody sees a difference."""


def enhance(
    images: Images,
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder of the results, the sheet and the enhancer."), OUTPUT
    ],
    enhancer: Annotated[
        Path | None, typer.Option(help="File of an enhancer of an earlier run, or CLIP-LIT's `.pth`.")
    ] = None,
    dark: Annotated[
        Path | None, typer.Option(help="Train on this folder of backlit or dark pictures; needs --bright.")
    ] = None,
    bright: Annotated[
        Path | None, typer.Option(help="Folder of other pictures, of the same kinds of things, that are well lit.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="`rave`: by the difference of both folders; `clip-lit`: by prompts learned in turn; "
            "`clip-lit-latent`: by vectors; `words`: by two texts."
        ),
    ] = "rave",
    steps: Annotated[int, typer.Option(min=1, max=10**6, help="Training steps of the network, in each round.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Of network and prompts in turn; `rave` has one.")] = 2,
    prompt_steps: Annotated[int, typer.Option(min=1, max=10**6, help="Steps of what guides, in each round.")] = 200,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Pictures a training step.")] = 8,
    lr: Annotated[float, typer.Option(min=1e-8, max=1.0, callback=finite, help="Of the network.")] = 5e-4,
    content: Annotated[
        float,
        typer.Option(min=0, max=1e6, callback=finite, help="Weight of what holds a result to its picture."),
    ] = 30.0,
    side: Annotated[int, typer.Option(min=16, max=2048, help="Training pictures become squares of this side.")] = 128,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of the training.")] = 0,
    model: Model = "small",
    max_side: Annotated[
        int, typer.Option(min=16, max=8192, help="Light of larger pictures is estimated at this longer side.")
    ] = 512,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Make the light of backlit and dark pictures more even, by an enhancer that learned from two folders of yours.

    Examples:

        binderclip enhance holiday/ --dark backlit/ --bright well-lit/ --out enhanced/

        binderclip enhance more/ --enhancer enhanced/enhancer.safetensors --out more-enhanced/

    The two folders need not show the same. Results keep their size; before-after.png shows pairs. Started again with
    the same settings it goes on where it stopped. Nobody but you can say whether a result pleases: look at the sheet.
    """
    if (enhancer is None) == (dark is None and bright is None):
        raise UsageError("give --enhancer FILE, or --dark FOLDER and --bright FOLDER to train one")
    if enhancer is None and (dark is None or bright is None):
        raise UsageError(f"--{'dark' if dark is None else 'bright'} FOLDER is missing: training needs both")
    found = find_images(images, without=str(out))
    folder = output_folder(out, make=False)
    from binderclip.quality import load_enhancer
    from binderclip.tasks.verbs.enhance.run import enhanced, places_of_results
    from binderclip.tasks.verbs.enhance.train import EnhancerTraining, trained

    places_of_results(found.paths, images, folder)  # before a training, not after it
    with stages("opening the enhancer" if enhancer else "reading the folders"):
        left_out: list[tuple[str, str]] = []
        if enhancer is not None:
            network, card = load_enhancer(enhancer, device=device)
        else:
            assert dark is not None
            assert bright is not None
            training = EnhancerTraining(method, model, steps, rounds, prompt_steps, batch_size, lr, content, side, seed)
            network, card, left_out = trained(training, dark, bright, folder, device=device)
        result = enhanced(network, found.paths, images, folder, longest=max_side, device=device)
    skipped = [*left_out, *result.skipped]
    if json:
        print_json({"out": str(folder), "training": card, **result.as_dict()})
    else:
        _show(result)
        if enhancer is None:
            note_weak_on_photographs(model, found.paths, weakness="judges the light of photographs badly")
    warn_skipped(skipped)
    raise typer.Exit(1 if not result.rows else found.exit_code(result.skipped))


def _show(result: EnhancedPictures) -> None:
    """The table, where the sheet is, and what was there before."""
    if not result.rows:
        return
    count = len(result.rows)
    part = f", the first {SHOWN}" if count > SHOWN else ""
    print_table(
        f"{number_of(count, 'picture')}{part}: mean brightness and share of white pixels, before and after",
        ("image", "mean", "after", "white", "white after"),
        [(short_path(row.image), row.mean, row.mean_after, row.white, row.white_after) for row in result.rows[:SHOWN]],
    )
    if result.kept:
        note(f"{result.kept} of them were there from an earlier run")
    note(f"sheet {result.sheet}")
    change = sum(abs(row.mean_after - row.mean) for row in result.rows) / count
    if change < HARDLY:
        note(
            f"results hardly differ from their pictures ({change:.3f} of the range of brightness): train with more "
            "--steps or less --content"
        )


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(enhance)
