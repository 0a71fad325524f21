"""What `trace` is asked."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.tasks.arguments.points import numbers_text, parse_point
from binderclip.tasks.request import Option, Request

Point = tuple[float, float]


class TraceRequest(Request):
    """Trace a tube between points: a vessel, a root, a river, a road. One line without gaps, and its pixels.

    Examples:

        binderclip trace retina.png --from 120,40 --to 310,220

        binderclip trace map.png --from 12,30 --to 200,90 --to 260,240 --size 400

    The line follows what looks like the middle of a tube; where the pieces are wrong, give points in between.
    A second line on the same picture writes NAME-trace-2.json and so on.
    """

    task: ClassVar[str] = "trace"
    document_option: ClassVar[str] = "--request"

    image: Annotated[str, Option("The image file.", positional=True)]
    start: Annotated[
        Point,
        Option(
            "A pixel where the line begins.", ("--from",), metavar="X,Y", parse=partial(parse_point, option="--from"),
            write=numbers_text,
        ),
    ]  # fmt: skip
    to: Annotated[
        list[Point],
        Field(min_length=1),
        Option(
            "A pixel where it ends; given several times, it goes through each.", metavar="X,Y",
            parse=partial(parse_point, option="--to"), write=numbers_text, each=True,
        ),
    ]  # fmt: skip
    tracer: Annotated[str, Option("`small-tracer`, or a folder that segment.save_tracer wrote.")] = "small-tracer"
    size: Annotated[
        int,
        Field(ge=16, le=2048),
        Option("Longest side at which the picture is traced: tubes should be 2 to 4 wide."),
    ] = 256
    out: Annotated[
        str | None, Option("JSON of the line's points [default: NAME-trace.json].", ("--out", "-o"), output=True)
    ] = None
    overlay: Annotated[
        str | None, Option("PNG of the image with the line [default: NAME-traced.png].", output=True)
    ] = None
    mask: Annotated[
        str | None, Option("PNG of the tube's pixels, 255 inside [default: NAME-trace.png].", output=True)
    ] = None
