"""What `clean` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.tasks.fields import Device, Images
from binderclip.tasks.request import Option, Request


def _kinds() -> tuple[str, ...]:
    from binderclip.generate import CLEANERS

    return tuple(CLEANERS)


class CleanRequest(Request):
    """Take fences or reflections out of pictures, by a small network that learned from drawn ones and photographs.

    Examples:

        binderclip clean zoo/ --of fence --out cleaned/

        binderclip clean shop.jpg --of reflection --model panes/ --out cleaned/ --shrink 2

    Results are PNG files of the picture's own size, transparency included; before-after.png shows pairs. Of a fence the
    mask is written as well: white is what was painted anew, and nothing else changes. What is painted is a guess: look
    at it.
    """

    task: ClassVar[str] = "clean"

    images: Images
    of: Annotated[
        str, Option("What is taken out: `fence` (also bars, wires and nets) or `reflection`.", choices=_kinds)
    ]
    out: Annotated[str, Option("Folder of the results and the sheet.", ("--out", "-o"), output=True)]
    model: Annotated[
        str | None,
        Option(
            "`small-fence`, or a folder of weights; none against reflections are bundled: `train_reflection` of "
            "`binderclip.train.bundled.generative.clean` makes them of photographs [default: `small-fence` of fences].",
            ("--model", "-m"),
        ),
    ] = None
    shrink: Annotated[
        int | None,
        Field(ge=1, le=64),
        Option(
            "Look at the picture so many times smaller: for strands wider than 8 pixels, or a reflection that is "
            "blurred wider than 5 [default: until its longer side has at most 1,000 pixels].",
            label="Look at it so many times smaller",
        ),
    ] = None
    device: Device = "cpu"
