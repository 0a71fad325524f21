"""`binderclip locate`: which of the given regions a text means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from binderclip.cli.shared.options import DEFAULT_MODEL, Device, Dtype, Json, Model
from binderclip.cli.shared.output import note, print_json, print_table
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.arguments.labels import parse_labels
from binderclip.tasks.files.inputs import one_image
from binderclip.tasks.files.outputs import OUTPUT, output_path

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.adapt import Region


def locate(
    image: Annotated[str, typer.Argument(help="The image file.")],
    texts: Annotated[list[str], typer.Argument(help="What to find, such as `a cat`; several texts are allowed.")],
    boxes: Annotated[
        str | None,
        typer.Option(
            "--boxes", "-b", help="Regions: CSV lines `x0,y0,x1,y1[,name]` or a JSON list, pixels of the image."
        ),
    ] = None,
    masks: Annotated[
        list[str] | None,
        typer.Option(
            "--masks",
            help="Exact masks: a PNG label map (0 is background), or one mask PNG a region (repeat, or name a folder). "
            "With --boxes one for each box, in order.",
        ),
    ] = None,
    proposals: Annotated[
        str,
        typer.Option(
            help="Without --boxes and --masks: the promptable segmenter that proposes regions, as `masks` does."
        ),
    ] = "small-sam",
    points_per_side: Annotated[
        int, typer.Option(min=1, max=256, help="Points along each side that proposals are asked at.")
    ] = 16,
    preset: Annotated[
        str,
        typer.Option(
            help="What is shown to the model for each region: `reclip` (the crop, and the image blurred outside it), "
            "`crop`, `red-circle`, `fgvp` (needs --masks), `falip` (attention; no pixel changes)."
        ),
    ] = "reclip",
    assign: Annotated[
        str, typer.Option(help="`argmax`: each text by itself; `hungarian`, `sinkhorn`: one region for each text.")
    ] = "argmax",
    negatives: Annotated[
        str, typer.Option(help="Texts whose mean score is subtracted, separated by commas, or `@FILE`.")
    ] = "",
    templates: Annotated[
        str | None,
        typer.Option("--templates", "-t", help="Put around each text: a set, or one template with `{}`."),
    ] = None,
    picture: Annotated[
        str | None,
        typer.Option("--picture", help="PNG with the chosen boxes drawn [default: NAME-located.png]."),
        OUTPUT,
    ] = None,
    model: Model = DEFAULT_MODEL,
    device: Device = "cpu",
    dtype: Dtype = "float32",
    json: Json = False,
) -> None:
    """Find the region that a text means, among boxes or masks that you give or that are proposed (nothing is trained).

    Examples:

        binderclip locate street.jpg "a red car"

        binderclip locate street.jpg "a red car" "a tree" --boxes boxes.csv

        binderclip locate scene.png "a cat" --masks labels.png --preset fgvp
    """
    others = parse_labels(negatives, "--negatives") if negatives else None
    path = one_image(image)
    drawn_path = output_path(picture, path, "located")

    import numpy as np

    from binderclip.adapt import PRESETS, RegionReferrer
    from binderclip.data import open_image
    from binderclip.tasks.arguments.boxes import read_regions
    from binderclip.tasks.report.sheet import save_picture

    if preset not in PRESETS:
        raise UsageError(f"--preset {preset!r} is unknown; there are {', '.join(PRESETS)}")
    if assign not in ("argmax", "hungarian", "sinkhorn"):
        raise UsageError(f"--assign {assign!r} is unknown; there are argmax, hungarian and sinkhorn")
    proposed = boxes is None and not masks
    if PRESETS[preset].masks and not masks and not proposed:
        raise UsageError(f"--preset {preset} draws on exact masks: give --masks, or another preset")
    opened = open_image(path)
    size = (opened.height, opened.width)
    regions = (
        _proposed(opened, proposals, points_per_side, device) if proposed else read_regions(boxes, masks or [], size)
    )

    from binderclip.models import load

    clip = load(model, device=device, dtype=dtype)
    refer = RegionReferrer(
        clip, preset, negatives=others, how=assign, templates=templates  # type: ignore[arg-type]
    )  # fmt: skip
    found = refer(np.asarray(opened), regions, texts)
    rows = [_answer(text, column, found, regions, size) for column, text in enumerate(texts)]
    save_picture(draw_located(opened, regions, rows), drawn_path)
    if json:
        print_json(
            {
                "image": path,
                "model": model,
                "preset": preset,
                "proposals": proposals if proposed else None,
                "regions": [{"name": r.name, "box": r.bounds(*size)} for r in regions],
                "texts": rows,
                "picture": drawn_path,
            }
        )
        return
    print_table(
        f"{path}, {number_of(len(regions), 'region')}, {preset}, model {model}",
        ("text", "region", "prob", "box", "next best"),
        [[r["text"], r["name"], r["prob"], _shown(r["box"]), r["next"]] for r in rows],
    )
    typer.echo(f"picture {drawn_path}")


def _proposed(picture: Image.Image, name: str, points_per_side: int, device: str) -> list[Region]:
    """Everything that a promptable segmenter finds, the largest first.

    Raises:
        UsageError: it finds nothing.
    """
    from binderclip.adapt import Region
    from binderclip.segment import AutomaticMasks, load_promptable

    found = AutomaticMasks(load_promptable(name, device=device), points_per_side=points_per_side)(picture)
    if not len(found):
        raise UsageError(f"{name} proposes no region here: give --boxes or --masks, or a larger --points-per-side")
    note(f"{number_of(len(found), 'region')} proposed by {name}")
    return [Region(mask=mask.numpy()) for mask in found.masks]


def _answer(text: str, column: int, found: Any, regions: list[Region], size: tuple[int, int]) -> dict[str, Any]:
    best, probs = int(found.best[column]), found.probs[:, column].tolist()
    order = [i for i in sorted(range(len(regions)), key=lambda i: -probs[i]) if i != best]
    return {
        "text": text,
        "region": best if best >= 0 else None,
        "name": _name(regions, best) if best >= 0 else "none is left",
        "prob": probs[best] if best >= 0 else 0.0,
        "box": regions[best].bounds(*size) if best >= 0 else None,
        "next": f"{_name(regions, order[0])} {probs[order[0]]:.3f}" if order else "",
        "probs": probs,
        "scores": found.scores[:, column].tolist(),
    }


def _name(regions: list[Region], index: int) -> str:
    return regions[index].name or f"#{index + 1}"


def _shown(box: tuple[int, int, int, int] | None) -> str:
    return "" if box is None else ", ".join(map(str, box))


def draw_located(image: Image.Image, regions: list[Region], rows: list[dict[str, Any]]) -> Image.Image:
    """The image with every region thin and grey, the chosen ones in colour, and the texts below."""
    from PIL import ImageDraw

    from binderclip.segment.output.palette import colours, with_legend

    canvas = image.convert("RGB")
    pen = ImageDraw.Draw(canvas)
    line = max(2, round(min(canvas.size) / 90))
    for region in regions:
        x0, y0, x1, y1 = region.bounds(canvas.height, canvas.width)
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), outline=(150, 150, 150), width=max(1, line // 3))
    palette = colours(len(rows))
    shared: dict[int, int] = {}
    for row, colour in zip(rows, palette, strict=True):
        if row["box"] is None:
            continue
        x0, y0, x1, y1 = row["box"]
        # Texts that share a region draw their frames inside one another.
        inset = shared.get(row["region"], 0) * (line + 1)
        shared[row["region"]] = shared.get(row["region"], 0) + 1
        if x1 - x0 > 2 * inset and y1 - y0 > 2 * inset:
            pen.rectangle((x0 + inset, y0 + inset, x1 - 1 - inset, y1 - 1 - inset), outline=colour, width=line)
    entries = [(f"{row['text']}: {row['name']} {row['prob']:.2f}", c) for row, c in zip(rows, palette, strict=True)]
    return with_legend(canvas, entries)


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(locate)
