"""What `duplicates` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.tasks.fields import Images
from binderclip.tasks.request import Option, Request

RULES = ("largest", "sharpest", "oldest", "newest")
"""Which picture of a group is kept."""
KEPT = 0.6
"""Share of a picture's area from which on a crop of it is a copy: of 60 crops to .6 to .9 57 are seen, of 42 before."""
SIMILAR = 0.8
"""Agreement from which on two pictures count as one: chosen on Noto emoji and half of scikit-image's photographs."""


class DuplicatesRequest(Request):
    """Group pictures that are there more than once: the same bytes, the same pixels, or nearly the same picture.

    Examples:

        binderclip duplicates holiday/

        binderclip duplicates holiday/ --keep oldest --kept-folder holiday-once/

    No picture is deleted or moved. Writes duplicates.csv (group, image, keep or remove, similarity to the one that is
    kept, why), duplicates.json, remove.txt (a path a line) and report.html. Nearly the same is a picture that was
    resized, compressed again, made lighter or darker, or cropped to no less than `--crops` of its area; in a group each
    picture is a copy of each. No model is used.
    """

    task: ClassVar[str] = "duplicates"

    images: Images
    out: Annotated[str, Option("Folder of the lists and the report.", ("--out", "-o"), output=True)] = "duplicates"
    kept_folder: Annotated[
        str | None, Option("Copy the pictures without the duplicates into this new or empty folder.", output=True)
    ] = None
    keep: Annotated[
        str,
        Option(
            "Of each group: `largest` (most pixels, then bytes), `sharpest`, `oldest` or `newest` (EXIF, else file).",
            choices=lambda: RULES,
            label="Keep of each group",
        ),
    ] = RULES[0]
    similarity: Annotated[
        float,
        Field(ge=0.5, le=1),
        Option("Least similarity of near-duplicates.", label="Least similarity of near-duplicates"),
    ] = SIMILAR
    crops: Annotated[
        float,
        Field(ge=0.5, le=1),
        Option("Least share of a picture that a cropped copy keeps; a larger one is faster.", label="Least share kept"),
    ] = KEPT
    near: Annotated[
        bool, Option("Near-duplicates as well; else only the same pixels.", label="Near-duplicates as well")
    ] = True
