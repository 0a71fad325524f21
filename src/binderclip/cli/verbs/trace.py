"""`binderclip trace`: a vessel, root, river or road from one point to another, as one line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from binderclip.cli.shared.options import Json
from binderclip.cli.shared.output import print_json
from binderclip.errors import UsageError
from binderclip.tasks.arguments.points import check_within, parse_point
from binderclip.tasks.files.inputs import one_image
from binderclip.tasks.files.outputs import OUTPUT, new_paths
from binderclip.tasks.files.writing import write_json

if TYPE_CHECKING:
    from PIL import Image

    from binderclip.segment import TracedLine


def trace(
    image: Annotated[str, typer.Argument(help="The image file.")],
    start: Annotated[str, typer.Option("--from", metavar="X,Y", help="A pixel where the line begins.")],
    to: Annotated[
        list[str],
        typer.Option("--to", metavar="X,Y", help="A pixel where it ends; given several times, it goes through each."),
    ],
    tracer: Annotated[
        str, typer.Option(help="`small-tracer`, or a folder that segment.save_tracer wrote.")
    ] = "small-tracer",
    size: Annotated[
        int,
        typer.Option(
            min=16, max=2048, help="Longest side at which the picture is traced: tubes should be 2 to 4 wide."
        ),
    ] = 256,
    out: Annotated[
        str | None, typer.Option("--out", "-o", help="JSON of the line's points [default: NAME-trace.json]."), OUTPUT
    ] = None,
    overlay: Annotated[
        str | None, typer.Option(help="PNG of the image with the line [default: NAME-traced.png]."), OUTPUT
    ] = None,
    mask: Annotated[
        str | None, typer.Option(help="PNG of the tube's pixels, 255 inside [default: NAME-trace.png]."), OUTPUT
    ] = None,
    json: Json = False,
) -> None:
    """Trace a tube between points: a vessel, a root, a river, a road. One line without gaps, and its pixels.

    Examples:

        binderclip trace retina.png --from 120,40 --to 310,220

        binderclip trace map.png --from 12,30 --to 200,90 --to 260,240 --size 400

    The line follows what looks like the middle of a tube; where the pieces are wrong, give points in between.
    A second line on the same picture writes NAME-trace-2.json and so on.
    """
    path = one_image(image)
    points = [parse_point(start, "--from"), *(parse_point(text, "--to") for text in to)]
    line_path, overlay_path, mask_path = new_paths(
        path, (out, "trace.json"), (overlay, "traced.png"), (mask, "trace.png")
    )

    from binderclip.data import open_image
    from binderclip.segment import load_tracer, trace_picture
    from binderclip.tasks.report.sheet import save_picture

    picture = open_image(path).convert("RGB")
    check_within(points, picture)
    opened = load_tracer(tracer)
    if mask is not None and opened.mask is None:
        raise UsageError(f"--mask: {tracer} finds lines alone, without their pixels: leave it out")
    found = trace_picture(opened, picture, points, size=size)
    document = {
        "image": path,
        "tracer": tracer,
        "through": points,
        "length": found.length,
        "cost": found.cost,
        "points": [[round(x, 2), round(y, 2)] for x, y in found.points.tolist()],
    }
    write_json(document, line_path)
    save_picture(drawn(picture, found, points), overlay_path)
    if found.mask is not None:
        from PIL import Image

        save_picture(Image.fromarray(found.mask.numpy().astype("uint8") * 255), mask_path)
    places = {"line": line_path, "overlay": overlay_path} | ({} if found.mask is None else {"mask": mask_path})
    if json:
        print_json(document | places)
        return
    typer.echo(
        f"{found.length:.0f} pixels long; cost {found.cost:.1f} a pixel (1 is a sure tube, {1 / opened.eps:g} none)"
    )
    typer.echo("\n".join(f"{name} {place}" for name, place in places.items()))


def drawn(picture: Image.Image, found: TracedLine, points: list[tuple[float, float]]) -> Image.Image:
    """The picture with the tube's pixels tinted, the line, and the given points."""
    import numpy as np
    from PIL import Image, ImageDraw

    pixels = np.asarray(picture, dtype=np.float32)
    if found.mask is not None:
        tint = np.array([20, 160, 60], dtype=np.float32)
        pixels = np.where(found.mask.numpy()[..., None], 0.55 * pixels + 0.45 * tint, pixels)
    shown = Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(shown)
    size = max(2, min(picture.size) // 80)
    draw.line([tuple(point) for point in found.points.tolist()], fill=(210, 30, 30), width=max(1, size // 2))
    for x, y in points:
        draw.ellipse((x - size, y - size, x + size, y + size), fill=(20, 90, 220), outline="white")
    return shown


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(trace)
