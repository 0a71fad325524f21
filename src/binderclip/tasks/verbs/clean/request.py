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

        binderclip clean zoo/ --of fence --model weights/ --out cleaned/

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
        str,
        Option(
            "Folder of weights; none are bundled: `train_fence` and `train_reflection` of "
            "`binderclip.train.bundled.generative.clean` make them of photographs.",
            ("--model", "-m"),
        ),
    ]
    shrink: Annotated[
        int,
        Field(ge=1, le=64),
        Option(
            "Look at the picture so many times smaller: for strands wider than 8 pixels, or a reflection that is "
            "blurred wider than 5.",
            label="Look at it so many times smaller",
        ),
    ] = 1
    device: Device = "cpu"
