"""What `foveate` is asked."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from binderclip.errors import UsageError
from binderclip.tasks.fields import MOST_SEED, Device, Images
from binderclip.tasks.request import Option, Request

METHODS = ("blur", "texture")
MIDDLE = "50%,50%"


def parse_fixation(text: str) -> tuple[tuple[float, bool], tuple[float, bool]]:
    """(number, whether it is per cent) of x and of y: `120,80`, `50%,25%`, or one of each.

    Raises:
        UsageError: not two finite numbers of 0 or more, or more than 100 per cent.
    """
    try:
        x, y = (
            (float(part.strip().removesuffix("%")), part.strip().endswith("%")) for part in text.split(",")
        )  # fmt: skip
        if not all(math.isfinite(value) and 0 <= value <= (100 if share else math.inf) for value, share in (x, y)):
            raise ValueError
    except ValueError as error:
        raise UsageError(
            f"--at {text!r}: write x,y in pixels, such as 120,80, or in per cent, such as 50%,25%"
        ) from error
    return x, y


def _checked(places: list[str]) -> list[str]:
    for place in places:
        parse_fixation(place)
    return places


class FoveateRequest(Request):
    """Show pictures as an eye sees them that rests on one point: sharp there, blurred or mere texture around.

    Examples:

        binderclip foveate photo.jpg --at 310,120

        binderclip foveate photos/ --at 50%,50% --at 20%,30% --method texture --field 40

    Regions in which the eye pools what it sees grow with their distance from the point. Pictures above `--max-side` are
    reduced to it, other results have their size; beside each lies a map of the regions, and a table says what is kept
    at which distance.
    """

    task: ClassVar[str] = "foveate"

    images: Images
    at: Annotated[
        list[str],
        Field(min_length=1, max_length=64),
        AfterValidator(_checked),
        Option(
            "Where the eye rests: x,y in pixels or per cent; several times for several results [default: the middle].",
            metavar="X,Y", each=True, parse=str, default="50%,50%", label="Where the eye rests",
        ),
    ] = [MIDDLE]  # fmt: skip
    method: Annotated[
        str,
        Option(
            "`blur`: a Gaussian as wide as the region; `texture`: noise with the statistics of the region "
            "(NeuroFovea), which keeps contrast and loses place.",
            choices=lambda: METHODS,
        ),
    ] = "blur"
    scale: Annotated[
        float,
        Field(ge=0.05, le=2),
        Option("Width of a region, as a part of its distance from the gaze: V1 has about 0.25, V2 about 0.5."),
    ] = 0.4
    field: Annotated[
        float,
        Field(ge=1, le=180),
        Option("Degrees that the longer side spans for the eye.", label="Degrees that the longer side spans"),
    ] = 26.0
    pixels_per_degree: Annotated[
        float | None, Field(ge=0.1, le=10_000), Option("In the place of --field, for pictures of several sizes.")
    ] = None
    fovea: Annotated[float, Field(ge=0.01, le=90), Option("Radius of what is seen sharp, in degrees.")] = 1.0
    blur: Annotated[
        float,
        Field(ge=0, le=10),
        Option("Standard deviation of the blur, as a part of the region's radius.", label="Blur"),
    ] = 0.4
    slope: Annotated[
        float, Field(ge=0, le=100), Option("Of `texture`: how fast its amount rises with a region's radius in degrees.")
    ] = 1.281
    block: Annotated[
        int,
        Field(ge=1, le=32),
        Option("Of `texture`: side of the blocks whose frequencies it keeps the statistics of, in pixels."),
    ] = 8
    seed: Annotated[int, Field(ge=0, le=MOST_SEED), Option("Of `texture`: the same seed gives the same noise.")] = 0
    max_side: Annotated[
        int, Field(ge=32, le=4096), Option("Larger pictures are reduced first.", label="Longest side, in pixels")
    ] = 1024
    out: Annotated[str, Option("Folder of the results, maps and table.", ("--out", "-o"), output=True)] = "foveated"
    device: Device = "cpu"
