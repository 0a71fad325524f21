"""What `click` is asked."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.arguments.boxes import parse_box
from binderclip.tasks.arguments.points import numbers_text, parse_point
from binderclip.tasks.fields import SMALL_SAM, Device, SegmenterModel
from binderclip.tasks.request import Option, Request

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def _box(text: str) -> Box:
    box: Any = parse_box(text).box
    return box


def _line(text: str) -> list[Point]:
    return [parse_point(word, "--scribble") for word in text.split()]


def _line_text(line: list[Point]) -> str:
    return " ".join(map(numbers_text, line))


def _checked(box: Any) -> Any:
    """A box of a program is held to the same as one that is written."""
    return _box(box if isinstance(box, str) else numbers_text(box)) if box is not None else None


class ClickRequest(Request):
    """Cut out what you point at; coordinates are pixels of the picture.

    Examples:

        binderclip click photo.jpg --point 310,120

        binderclip click photo.jpg --box 40,30,300,280 --not 60,40

        binderclip click photo.jpg --session photo.json --point 310,120

        binderclip click photo.jpg --session photo.json --undo 1 --not 60,40

        binderclip click photos/ --objects clicks.json --out objects

    With --objects the masks of several objects are cut out as they were clicked on the workbench's tab Click: a COCO
    file of all, and of each picture a PNG of labels, the objects on transparent ground, and an overlay.

    A second click on the same picture writes NAME-mask-2.png: a mask is replaced only where --out names it.
    """

    task: ClassVar[str] = "click"

    image: Annotated[str, Option("The image file; with --objects a folder as well.", positional=True)]
    point: Annotated[
        list[Point],
        Option(
            "A pixel inside the object. Can be given several times.", ("--point", "-p"), metavar="X,Y",
            parse=partial(parse_point, option="--point"), write=numbers_text, each=True,
        ),
    ] = []  # fmt: skip
    outside: Annotated[
        list[Point],
        Option(
            "A pixel outside the object. Can be given several times.", ("--not",), metavar="X,Y",
            parse=partial(parse_point, option="--not"), write=numbers_text, each=True,
        ),
    ] = []  # fmt: skip
    box: Annotated[
        Box | None,
        BeforeValidator(_checked),
        Option("A box around the object, `x0,y0,x1,y1` in pixels.", parse=_box, write=numbers_text),
    ] = None
    scribble: Annotated[
        list[list[Point]],
        Option(
            "With --session: a line over the object, its corners in quotes.", metavar="X,Y X,Y ...", parse=_line,
            write=_line_text, each=True,
        ),
    ] = []  # fmt: skip
    session: Annotated[
        str | None,
        Option(
            "Keep the clicks in this JSON and go on from those in it; the mask is of all of them.", metavar="FILE",
            output=True,
        ),
    ] = None  # fmt: skip
    undo: Annotated[int, Field(ge=0, le=10_000), Option("With --session: steps to take back first.")] = 0
    redo: Annotated[int, Field(ge=0, le=10_000), Option("With --session: steps to do again.")] = 0
    objects: Annotated[
        str | None,
        Option(
            "JSON of what was clicked on the workbench, or COCO instances: all objects in it, in place of --point.",
            metavar="FILE",
        ),
    ] = None  # fmt: skip
    coco: Annotated[
        str | None,
        Option("With --objects: JSON of all masks, as COCO instances [default: coco.json in --out].", output=True),
    ] = None
    out: Annotated[
        str | None,
        Option(
            "PNG of the mask, 255 inside [default: NAME-mask.png; NAME-mask-2.png and so on where it is taken]; with "
            "--objects a folder [default: objects].",
            ("--out", "-o"),
            output=True,
        ),
    ] = None
    overlay: Annotated[
        str | None, Option("PNG of the image with the mask [default: NAME-clicked.png].", output=True)
    ] = None
    model: SegmenterModel = SMALL_SAM
    cut: Annotated[
        bool | None,
        Option("Whether the mask is cut out along the edges of the picture (GrabCut) [default: with small-sam]."),
    ] = None
    device: Device = "cpu"

    @model_validator(mode="after")
    def _fits(self) -> ClickRequest:
        if self.objects is not None:
            if self.point or self.outside or self.box or self.session is not None or self.scribble or self.overlay:
                raise UsageError("--objects has points and boxes of its own: leave out the others, and --overlay")
            return self
        if self.coco is not None:
            raise UsageError("--coco goes with --objects FILE")
        if self.session is None and (self.undo or self.redo or self.scribble):
            raise UsageError("--undo, --redo and --scribble go with --session FILE")
        if self.session is None and not self.point and self.box is None:
            raise UsageError("give --point x,y or --box x0,y0,x1,y1: where the object is")
        if self.out is not None and Path(self.out).suffix.lower() != ".png":
            raise UsageError(f"--out {self.out}: a mask is saved as PNG")
        return self
