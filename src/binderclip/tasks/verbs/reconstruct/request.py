"""What `reconstruct` is asked."""

from __future__ import annotations

import itertools
import math
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.arguments.points import numbers_text
from binderclip.tasks.fields import MOST_SEED, Device
from binderclip.tasks.request import Option, Request

METHODS = ("distances", "field")
LONGEST = 1e6
"""Largest height, in pixels."""


def parse_spacing(text: str) -> list[float]:
    """The numbers of `--spacing`: `4`, or `0,3,7.5`.

    Raises:
        UsageError: no finite numbers.
    """
    try:
        numbers = [float(part) for part in text.split(",")]
        if not all(map(math.isfinite, numbers)):
            raise ValueError
    except ValueError as error:
        raise UsageError(
            f"--spacing {text!r}: write the distance between two slices in pixels, such as 4, or a height for each of "
            "them, such as 0,3,7.5"
        ) from error
    return numbers


class ReconstructRequest(Request):
    """Make a solid out of its cross-sections: a mesh, a picture of it, and how much of every slice it keeps.

    Examples:

        binderclip reconstruct slices/ --spacing 4 --out vase.ply

        binderclip reconstruct contours.json --method field --out bone.obj

    A slice is a picture in which the solid is white, or opaque; pixels are units of length. Or give polygons, on any
    planes, as JSON: {"slices": [{"height": 3, "contours": [[[x, y], ...], ...]}, ...]}, where "origin": [x, y, z] and
    "axes", two directions, may stand in the place of "height". A polygon inside another one is a hole.
    """

    task: ClassVar[str] = "reconstruct"

    slices: Annotated[
        list[str],
        Field(min_length=1),
        Option(
            "Pictures, lowest first; a folder of them, in the order of their numbers; or one JSON.", positional=True
        ),
    ]
    spacing: Annotated[
        list[float] | None,
        Field(min_length=1, max_length=10_000),
        Option(
            "Pixels from a picture to the next, or the height of each, such as `0,3,7.5`.", metavar="NUMBERS",
            parse=parse_spacing, write=numbers_text, label="Pixels from a slice to the next, or all heights",
        ),
    ] = None  # fmt: skip
    invert: Annotated[bool, Option("The solid is black, or transparent.")] = False
    method: Annotated[
        str | None,
        Option(
            "`distances`: distances to the contours, interpolated; parallel slices. `field`: a network fitted to them "
            "(OReX); any planes, minutes [default: distances where slices are parallel].",
            choices=lambda: METHODS,
        ),
    ] = None
    resolution: Annotated[
        int, Field(ge=16, le=512), Option("Places of the grid along the longest side; more give a finer mesh.")
    ] = 96
    levels: Annotated[
        int, Field(ge=1, le=6), Option("Of `field`: of refinement, each with more points along the contours.")
    ] = 3
    epochs: Annotated[
        int, Field(ge=1, le=10_000), Option("Of `field`: passes at each level; the authors take 50 to 200.")
    ] = 30
    rounds: Annotated[
        int, Field(ge=1, le=100), Option("Of `field`: in which it corrects its answer; the authors take 10.")
    ] = 4
    width: Annotated[int, Field(ge=4, le=1024), Option("Of `field`: units of each layer.")] = 64
    seed: Annotated[int, Field(ge=0, le=MOST_SEED), Option("Of `field`: the same seed gives the same mesh.")] = 0
    out: Annotated[str, Option("The mesh, .ply or .obj.", ("--out", "-o"), output=True)] = "solid.ply"
    picture: Annotated[
        str | None, Option("PNG of the mesh from two sides [default: beside the mesh].", output=True)
    ] = None
    device: Device = "cpu"

    @model_validator(mode="after")
    def _fits(self) -> ReconstructRequest:
        numbers = self.spacing or [1.0]
        if any(abs(number) > LONGEST for number in numbers):
            raise UsageError(f"--spacing {numbers_text(numbers)}: at most {LONGEST:g}")
        if len(numbers) == 1 and not numbers[0] > 0:
            raise UsageError(f"--spacing {numbers_text(numbers)}: the distance between two slices must be above 0")
        if any(after <= before for before, after in itertools.pairwise(numbers)):
            raise UsageError(f"--spacing {numbers_text(numbers)}: heights must increase from slice to slice")
        return self
