"""`binderclip click`: the mask of what was pointed at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from binderclip.cli.shared.options import Device, Json
from binderclip.cli.shared.output import print_json
from binderclip.display import number_of
from binderclip.errors import UsageError
from binderclip.tasks.arguments.boxes import parse_box
from binderclip.tasks.arguments.points import check_within, parse_point
from binderclip.tasks.arguments.session import SessionRequest, session_after
from binderclip.tasks.files.inputs import one_image
from binderclip.tasks.files.outputs import OUTPUT, new_paths, writable_path
from binderclip.tasks.verbs.click import cuts_out

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from binderclip.adapt import Region


def click(
    image: Annotated[str, typer.Argument(help="The image file.")],
    point: Annotated[
        list[str] | None,
        typer.Option("--point", "-p", metavar="X,Y", help="A pixel inside the object. Can be given several times."),
    ] = None,
    outside: Annotated[
        list[str] | None,
        typer.Option("--not", metavar="X,Y", help="A pixel outside the object. Can be given several times."),
    ] = None,
    box: Annotated[str | None, typer.Option(help="A box around the object, `x0,y0,x1,y1` in pixels.")] = None,
    scribble: Annotated[
        list[str] | None,
        typer.Option(metavar="X,Y X,Y ...", help="With --session: a line over the object, its corners in quotes."),
    ] = None,
    session: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="Keep the clicks in this JSON and go on from those in it; the mask is of all of them."
        ),
        OUTPUT,
    ] = None,
    undo: Annotated[int, typer.Option(min=0, max=10_000, help="With --session: steps to take back first.")] = 0,
    redo: Annotated[int, typer.Option(min=0, max=10_000, help="With --session: steps to do again.")] = 0,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="PNG of the mask, 255 inside [default: NAME-mask.png; NAME-mask-2.png and so on where it is taken].",
        ),
        OUTPUT,
    ] = None,
    overlay: Annotated[
        str | None, typer.Option(help="PNG of the image with the mask [default: NAME-clicked.png]."), OUTPUT
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", "-m", help="`small-sam`, `hf:facebook/sam-vit-base` or another SAM, or a run folder."),
    ] = "small-sam",
    cut: Annotated[
        bool | None,
        typer.Option(
            "--cut/--no-cut",
            help="Whether the mask is cut out along the edges of the picture (GrabCut) [default: with small-sam].",
        ),
    ] = None,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Cut out what you point at; coordinates are pixels of the picture.

    Examples:

        binderclip click photo.jpg --point 310,120

        binderclip click photo.jpg --box 40,30,300,280 --not 60,40

        binderclip click photo.jpg --session photo.json --point 310,120

        binderclip click photo.jpg --session photo.json --undo 1 --not 60,40

    A second click on the same picture writes NAME-mask-2.png: a mask is replaced only where --out names it.
    """
    path = one_image(image)
    inside = [parse_point(text, "--point") for text in point or []]
    away = [parse_point(text, "--not") for text in outside or []]
    area = None if box is None else parse_box(box)
    region = None if area is None else area.box
    if session is None and (undo or redo or scribble):
        raise UsageError("--undo, --redo and --scribble go with --session FILE")
    lines = tuple(tuple(parse_point(word, "--scribble") for word in text.split()) for text in scribble or [])
    if session is None and not inside and area is None:
        raise UsageError("give --point x,y or --box x0,y0,x1,y1: where the object is")
    mask_path, overlay_path = new_paths(path, (out, "mask.png"), (overlay, "clicked.png"))
    if mask_path.suffix.lower() != ".png":
        raise UsageError(f"--out {mask_path}: a mask is saved as PNG")
    if session is not None:
        writable_path(session)

    import torch

    from binderclip.data import open_image
    from binderclip.segment import CutSegmenter, PromptableSegmenter, Prompts, load_promptable

    picture = open_image(path).convert("RGB")
    check_within([*inside, *away], picture)
    if area is not None:
        _check_box(area, picture)
    segmenter: PromptableSegmenter = load_promptable(model, device=device)
    if cuts_out(model, cut):
        segmenter = CutSegmenter(segmenter)
    if session is not None:
        request = SessionRequest(Path(session), undo, redo, region, tuple(inside), tuple(away), lines)
        after = session_after(request, picture, path, segmenter, model)
        mask = after.mask.cpu().numpy()
        inside, away = ([(c.x, c.y) for c in after.clicks if c.positive is kind] for kind in (True, False))
        region = next((a.box for a in reversed(after.actions) if a.box is not None), None)
        sure, steps = after.predicted_iou or 0.0, len(after.actions)
        answer = _Answer(path, model, mask, sure, inside, away, region, session, steps)
        _finish(answer, picture, mask_path, overlay_path, json)
        return
    labels = [1] * len(inside) + [0] * len(away)
    prompts = Prompts.of(points=[*inside, *away] or None, labels=labels or None, box=region)
    # One click may mean a part or the whole: the best of three. More prompts are unambiguous.
    with torch.no_grad():
        state = segmenter.encode(picture)
        found = segmenter.predict(state, prompts, multimask=len(labels) == 1 and region is None).pick()
    mask = (found.logits[0, 0] > 0).cpu().numpy()
    answer = _Answer(path, model, mask, float(found.scores[0, 0]), inside, away, region)
    _finish(answer, picture, mask_path, overlay_path, json)


@dataclass(frozen=True)
class _Answer:
    """The mask and what asked for it."""

    path: Path
    model: str
    mask: np.ndarray
    predicted_iou: float
    inside: list[tuple[float, float]]
    away: list[tuple[float, float]]
    region: tuple[float, ...] | None
    session: str | None = None
    steps: int = 0


def _finish(answer: _Answer, picture: Image.Image, mask_path: Path, overlay_path: Path, json: bool) -> None:
    """Save the pictures and say what was found."""
    from PIL import Image

    from binderclip.tasks.report.sheet import save_picture

    mask = answer.mask
    save_picture(Image.fromarray(mask.astype("uint8") * 255), mask_path)
    save_picture(_drawn(picture, mask, answer.inside, answer.away, answer.region), overlay_path)
    bounds = _bounds(mask)
    if json:
        kept = {} if answer.session is None else {"session": answer.session, "steps": answer.steps}
        print_json(
            {
                "image": answer.path,
                "model": answer.model,
                "points": answer.inside,
                "not": answer.away,
                "box": answer.region,
                "pixels": int(mask.sum()),
                "share": float(mask.mean()),
                "predicted_iou": answer.predicted_iou,
                "bounds": bounds,
                "mask": mask_path,
                "overlay": overlay_path,
                **kept,
            }
        )
        return
    where = f"x {bounds[0]} to {bounds[2]}, y {bounds[1]} to {bounds[3]}" if bounds else "nothing was found there"
    typer.echo(f"{mask.mean():.1%} of the picture, {where}; predicted IoU {answer.predicted_iou:.2f}")
    typer.echo(f"mask {mask_path}\noverlay {overlay_path}")
    if answer.session is not None:
        typer.echo(f"session {answer.session}, {number_of(answer.steps, 'step')}")


def _check_box(area: Region, picture: Image.Image) -> None:
    try:
        area.bounds(picture.height, picture.width)
    except UsageError as error:
        raise UsageError(f"--box: {error}") from error


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int] | None:
    """(x0, y0, x1, y1) of a mask, half-open; None for an empty one."""
    import numpy as np

    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _drawn(
    picture: Image.Image,
    mask: np.ndarray,
    inside: list[tuple[float, float]],
    away: list[tuple[float, float]],
    box: tuple[float, ...] | None,
) -> Image.Image:
    """The picture, what is not the object faded, with the prompts."""
    import numpy as np
    from PIL import Image, ImageDraw

    pixels = np.asarray(picture, dtype=np.float32)
    faded = 0.25 * pixels.mean(axis=2, keepdims=True) + 165
    shown = Image.fromarray(np.where(mask[..., None], pixels, faded).round().clip(0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(shown)
    size = max(4, min(picture.size) // 60)
    if box is not None:
        draw.rectangle(list(box), outline=(20, 90, 220), width=max(2, size // 3))
    for colour, points in (((20, 160, 60), inside), ((210, 30, 30), away)):
        for x, y in points:
            draw.ellipse(
                (x - size, y - size, x + size, y + size), fill=colour, outline="white", width=max(1, size // 4)
            )
    return shown


def register(app: typer.Typer) -> None:
    """Add the verb to the application."""
    app.command()(click)
