"""`binderclip attack`: pictures that a model takes for something else, though hardly anything was changed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binderclip.cli.shared.inputs import Images, find_images
from binderclip.cli.shared.options import MOST_SEED, Device, Dtype, Json, Labels, parse_labels
from binderclip.cli.shared.output import note, print_json, print_table, short_path, warn_skipped, write_csv
from binderclip.cli.shared.outputs import OUTPUT, output_folder, writable_path
from binderclip.cli.shared.progress import batches_said, stages
from binderclip.display import number_of
from binderclip.errors import DataError, UsageError

if TYPE_CHECKING:
    from binderclip.cli.verbs.attack.run import Attacked

SHOWN = 20
"""Rows of the table on the screen; the CSV has all."""
COLUMNS = ("image", "label", "probability", "attacked", "its probability", "success", "in 8 bits", "levels")


def attack(
    model: Annotated[
        str, typer.Argument(help="A bundled model, `open_clip:ARCH/PRETRAINED`, `hf:REPO_OR_FOLDER`, or a run folder.")
    ],
    images: Images,
    labels: Labels,
    method: Annotated[
        str,
        typer.Option(
            help="`pgd`, `fgsm` (one step), `cw` (the margin to the next label), `mi-fgsm` (momentum) or `di-fgsm` "
            "(input diversity), which fool other models more often."
        ),
    ] = "pgd",
    eps: Annotated[
        str, typer.Option(help="The most that a pixel may change, of 1: a fraction such as `4/255`, or a number.")
    ] = "4/255",
    steps: Annotated[int | None, typer.Option(min=1, max=10_000, help="Of all but `fgsm` [default: 10].")] = None,
    target: Annotated[
        str | None, typer.Option(help="The label that is to be reached [default: any but the one of the picture].")
    ] = None,
    templates: Annotated[str, typer.Option("--templates", "-t", help="Sentences around a label.")] = "simple",
    max_side: Annotated[int, typer.Option(min=32, max=16_384, help="Larger pictures are reduced to this first.")] = 512,
    seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Of the random start.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the pictures and the table."), OUTPUT] = Path(
        "attack"
    ),
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Change pictures so little that nobody sees it, and so that the model takes them for something else.

    Examples:

        binderclip attack small photos/ --labels "a cat,a dog,a car" --eps 4/255

        binderclip attack small cat.jpg -l "a cat,a dog" --method cw --steps 40 --target "a dog" --out as-dog

    The folder gets an attacked picture each (8-bit PNG), its change, ten times as strong on grey, and `table.csv`. A
    success in 8 bits is one of the file as it was written and read again.
    """
    names = parse_labels(labels)
    radius = parse_eps(eps)
    if len(names) < 2:
        raise UsageError(f"--labels names {names[0]!r} alone: an attack needs another label to end at")
    if target is not None and target not in names:
        raise UsageError(f"--target {target!r} is none of --labels: {', '.join(names)}")
    folder = output_folder(out, make=False)
    from binderclip.cli.verbs.attack.run import attacked, check_method

    check_method(method, steps)
    table = folder / "table.csv"
    if table.exists():
        writable_path(table, columns=COLUMNS)
    found = find_images(images, without=str(folder))
    with stages("loading the model") as say:
        step, count = batches_said(say, "picture"), len(found.paths)
        done = attacked(
            model, found.paths, names, output_folder(folder), method=method, eps=radius, steps=steps, target=target,
            templates=templates, longest=max_side, seed=seed, device=device, dtype=dtype,
            progress=lambda number: step(number, count),
        )  # fmt: skip
    warn_skipped(done.skipped)
    if not done.pictures:
        raise DataError(f"nothing was attacked: of {number_of(count, 'picture')} none could be read")
    rows = rows_of(done)
    write_csv(COLUMNS, rows, table)
    if json:
        print_json({**done.as_dict(), "table": table, "out": folder})
    else:
        _show(done, rows, table)
    raise typer.Exit(found.exit_code(done.skipped))


def parse_eps(text: str) -> float:
    """The radius of `--eps`: a fraction or a number, above 0 and at most 1.

    Raises:
        UsageError: neither, or out of range.
    """
    try:
        parts = [float(part) for part in text.split("/")]
        value = parts[0] if len(parts) == 1 else parts[0] / parts[1]
        if len(parts) > 2 or math.isnan(value):
            raise ValueError
    except (ValueError, ZeroDivisionError) as error:
        raise UsageError(f"--eps {text!r} is neither a fraction such as 4/255 nor a number") from error
    if not 0 < value <= 1:
        raise UsageError(f"--eps {text!r} must be above 0 and at most 1: pixels run from 0 to 1, so 4 levels are 4/255")
    return value


def rows_of(done: Attacked) -> list[tuple[str, str, float, str, float, str, str, int]]:
    """One row a picture, in the order of `COLUMNS`."""
    return [
        (
            short_path(each.image), each.label, each.probability, each.attacked, each.attacked_probability,
            _yes(each.success), _yes(each.success_8bit), each.levels,
        )
        for each in done.pictures
    ]  # fmt: skip


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _show(done: Attacked, rows: list[tuple[str, str, float, str, float, str, str, int]], table: Path) -> None:
    count = len(rows)
    part = f", {SHOWN} of them" if count > SHOWN else ""
    aim = "another label" if done.target is None else repr(done.target)
    print_table(
        f"{number_of(count, 'picture')}{part}; {done.method} within {done.eps * 255:.3g} levels of "
        f"255, towards {aim}; model {done.model}",
        COLUMNS,
        rows[:SHOWN],
    )
    note(
        f"the attack reached its aim on {done.count(eight_bit=False)} of {number_of(count, 'picture')}, and on "
        f"{done.count(eight_bit=True)} as they lie in 8-bit files"
    )
    if done.reduced:
        note(f"{number_of(done.reduced, 'picture')} reduced to {done.longest} px first: --max-side keeps larger ones")
    note(f"pictures and changes in {short_path(table.parent)}, table {short_path(table)}")


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(attack)
