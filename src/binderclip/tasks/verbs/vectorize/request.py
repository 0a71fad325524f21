"""What `vectorize` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from binderclip.tasks.fields import MOST_SEED, Device, Images
from binderclip.tasks.request import Option, Request


class VectorizeRequest(Request):
    """Draw pictures again as few closed paths with gradient fills, the most important first, and write them as SVG.

    Examples:

        binderclip vectorize logo.png

        binderclip vectorize icons/ --paths 16 --background transparent --out drawn/

        binderclip vectorize photo.jpg --paths 256 --side 320

    A photograph takes 64 to 256 paths and 10 to 60 seconds, a logo 4 to 16 and few. Each level adds as many paths as
    there are, where the error is, and moves all of them. The folder gets NAME.svg with a group for each level,
    NAME.png, how it looks, and table.csv with the error. The SVG has the picture's own size. Both files are rewritten,
    whole, while they grow; Ctrl-C leaves what was drawn so far.
    """

    task: ClassVar[str] = "vectorize"

    images: Images
    paths: Annotated[
        int, Field(ge=1, le=512), Option("Shapes in a drawing; they come in levels of 1, 1, 2, 4 and so on.")
    ] = 128
    steps: Annotated[int, Field(ge=1, le=10_000), Option("How often all paths are changed in each level.")] = 50
    fill: Annotated[
        Literal["radial", "solid"], Option("`radial` gradients of two colours, or `solid` colours.", label="Fills")
    ] = "radial"
    background: Annotated[
        Literal["border", "white", "transparent", "segment"],
        Option(
            "What lies below all paths: `border`, what half of the outermost pixels share, else the mean; `white`; "
            "`transparent`, which leaves out what is white as well; `segment`, the paper's mean of a segment, which "
            "tints small pictures."
        ),
    ] = "border"
    side: Annotated[
        int,
        Field(ge=16, le=1024),
        Option("Larger pictures are reduced to this longest side, in pixels, to be drawn.", label="Longest side drawn"),
    ] = 240
    seed: Annotated[int, Field(ge=0, le=MOST_SEED), Option("Of places for new paths where no error stands out.")] = 0
    out: Annotated[str, Option("Folder of the drawings and the table.", ("--out", "-o"), output=True)] = "vectorized"
    device: Device = "cpu"

    def levels(self) -> list[int]:
        """Paths of each level: each doubles their number, and the last has what is left."""
        levels: list[int] = []
        left = self.paths
        while left:
            levels.append(min(left, max(1, sum(levels))))
            left -= levels[-1]
        return levels
