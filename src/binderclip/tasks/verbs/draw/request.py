"""What `draw` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import MODEL_HELP, MOST_SEED, Device
from binderclip.tasks.request import Option, Request

GUIDE, JUDGE = "small", "small-b"
"""Bundled models of two kinds of image tower, either of which can judge what the other one guided."""


METHOD_NAMES = ("strokes", "pixels", "vq")
"""Of `methods.METHODS`, which knows requests."""
CODE_SIDE = 4
"""Pixels along a code of `small-vq`."""


class DrawRequest(Request):
    """Draw a text: a picture is changed until a model finds the text in it, and another model judges it.

    Examples:

        binderclip draw "a red apple"

        binderclip draw "a lighthouse at night" --strokes 64 --steps 400 --seed 3 --out lighthouse.png

        binderclip draw "a red apple" --method pixels --out fooled.png

    The picture is rewritten, whole, while it grows: open it in a viewer that notices. Strokes are written as SVG beside
    it as well. Ctrl-C leaves what was drawn so far. A model is fooled by what it guides before people are, so read the
    figures of the judge, which did not.
    """

    task: ClassVar[str] = "draw"

    text: Annotated[str, Option("What to draw.", positional=True, label="What to draw")]
    method: Annotated[
        str,
        Option(
            "`strokes` of colour, free `pixels`, which fool the model sooner, or `vq`, codes of a small autoencoder.",
            choices=lambda: METHOD_NAMES,
            label="Method",
        ),
    ] = "strokes"
    steps: Annotated[int, Field(ge=1, le=100_000), Option("How often the picture is changed.")] = 200
    strokes: Annotated[int, Field(ge=1, le=1024), Option("Curves of the method `strokes`.")] = 32
    size: Annotated[
        int, Field(ge=16, le=512), Option("Side of the canvas that the model looks at, in pixels.", label="Canvas side")
    ] = 64
    views: Annotated[
        int, Field(ge=1, le=64), Option("Random perspectives and crops that the model is shown at each step.")
    ] = 4
    seed: Annotated[
        int,
        Field(ge=0, le=MOST_SEED),
        Option("Of the first picture and of the views: the same seed gives the same drawing."),
    ] = 0
    out: Annotated[str, Option("The picture; NAME.svg beside it.", ("--out", "-o"), output=True)] = "drawing.png"
    model: Annotated[str, Option(f"Guides. {MODEL_HELP}", ("--model", "-m"), label="Model")] = GUIDE
    judge: Annotated[
        str | None,
        Option(
            f"Says how well the drawing fits, and had no part in it [default: {JUDGE}; {GUIDE} where that one guides].",
            label="Model that judges",
        ),
    ] = None
    device: Device = "cpu"

    @model_validator(mode="after")
    def _fits(self) -> DrawRequest:
        if self.judge == self.model:
            raise UsageError(f"--judge {self.judge} is the model that guides, which is no judge of what it made")
        if self.method == "vq" and self.size % CODE_SIDE:
            raise UsageError(f"--size {self.size}: --method vq needs a multiple of {CODE_SIDE}")
        return self

    @property
    def judged_by(self) -> str:
        """The name of the judge."""
        return self.judge or (GUIDE if self.model == JUDGE else JUDGE)
