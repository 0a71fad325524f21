"""What `erase` is asked."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.arguments.labels import checked_labels, labels_text, parse_labels
from binderclip.tasks.arguments.points import numbers_text, parse_point
from binderclip.tasks.diffusion import DEFAULT_DENOISER, Coarse, DenoiserName, Seed, Steps
from binderclip.tasks.fields import SMALL_SAM, Device
from binderclip.tasks.request import Option, Request

WITHOUT_MODEL = ("patches", "fill")
METHODS = (*WITHOUT_MODEL, "inpaint", "clipaway", "outline")
Point = tuple[float, float]

MaskFile = Annotated[
    str | None, Option("Picture of the same size, white where new content belongs, such as a mask of `click`.")
]
Resamples = Annotated[
    int | None,
    Field(ge=1, le=50),
    Option(
        "How often every step is taken, so that old and new agree [default: 1; 4 for a model without inpainting "
        "channels].",
        label="Repeats of every step",
    ),
]
Picture = Annotated[str | None, Option("PNG of the result [default: under a new name].", ("--out", "-o"), output=True)]
MaskOut = Annotated[
    str | None, Option("PNG of the mask that was painted anew [default: under a new name].", output=True)
]
Sheet = Annotated[str | None, Option("PNG of before and after [default: under a new name].", output=True)]


class EraseRequest(Request):
    """Take an object out of a picture: name it, click on it, or give its mask; the rest stays bit for bit.

    Examples:

        binderclip erase photo.jpg --labels dog

        binderclip erase photo.jpg --point 310,120

        binderclip erase photo.jpg --point 310,120 --background-point 40,40 --model stable-diffusion-inpainting/

        binderclip erase photo.jpg --mask photo-mask.png --method clipaway

    The mask is that of `click`, or of `segment` for what is named, grown a little. Without a model of yours the place
    is filled with pieces of the rest of the picture, which suits grounds that go on; what nothing in the picture is
    like cannot come of it. A picture larger than the model's side is cropped around the mask. With `outline` the inside
    of the object is painted anew and its rim stays: another object of the same shape.
    """

    task: ClassVar[str] = "erase"

    image: Annotated[str, Option("The image file.", positional=True)]
    mask: MaskFile = None
    labels: Annotated[
        list[str] | None,
        AfterValidator(lambda labels: None if labels is None else checked_labels(labels)),
        Option(
            "What goes, in words, separated by commas: all that `segment` finds of it with `everyday`.",
            ("--labels", "-l"), parse=parse_labels, write=labels_text, label="What goes, in words",
        ),
    ] = None  # fmt: skip
    point: Annotated[
        list[Point],
        Option(
            "A pixel of the object. Can be given several times.", ("--point", "-p"), metavar="X,Y",
            parse=partial(parse_point, option="--point"), write=numbers_text, each=True,
        ),
    ] = []  # fmt: skip
    background_point: Annotated[
        list[Point],
        Option(
            "A pixel that is none of the object. Can be given several times.", metavar="X,Y",
            parse=partial(parse_point, option="--background-point"), write=numbers_text, each=True,
        ),
    ] = []  # fmt: skip
    method: Annotated[
        str | None,
        Option(
            "`patches`: pieces of the rest of the picture, and `fill`: the smoothest continuation, both without a "
            "model; `inpaint`: what fits the rest; `clipaway`: told of the background without the object, by a model "
            "with image attention; `outline`: another object inside the same rim [default: patches; inpaint "
            "where --model names another than the bundled one].",
            choices=lambda: METHODS,
        ),
    ] = None
    grow: Annotated[
        int | None,
        Field(ge=0, le=512),
        Option(
            "Pixels around the object that go as well [default: 2 % of the shorter side; outline: 0].",
            label="Rim that goes as well, in pixels",
        ),
    ] = None
    model: DenoiserName = DEFAULT_DENOISER
    steps: Steps = 50
    resamples: Resamples = None
    coarse: Coarse = False
    seed: Seed = 0
    guidance: Annotated[
        float, Field(ge=0, le=100), Option("With clipaway: how much the background's embedding is followed.")
    ] = 7.5
    adapter: Annotated[
        str | None, Option("With clipaway: IP-Adapter weights for a pipeline without image attention.")
    ] = None
    image_model: Annotated[
        str,
        Option(
            "With clipaway: the model whose embeddings the image attention takes; one with an alpha channel looks "
            "where it is told, any other is shown object and background on grey."
        ),
    ] = "small"
    segmenter: Annotated[str, Option("What cuts out the object: `small-sam`, a SAM, or a run folder.")] = SMALL_SAM
    out: Picture = None
    mask_out: MaskOut = None
    sheet: Sheet = None
    device: Device = "cpu"

    @model_validator(mode="after")
    def _fits(self) -> EraseRequest:
        if sum((self.mask is not None, self.labels is not None, bool(self.point))) != 1:
            raise UsageError(
                "give --labels WORDS, --point x,y on the object, or --mask FILE: one of them says what goes"
            )
        if not self.point and self.background_point:
            raise UsageError("--background-point goes with --point, a mask or words say it all")
        if self.adapter is not None and self.method != "clipaway":
            raise UsageError("--adapter goes with --method clipaway")
        if self.painted_by in WITHOUT_MODEL:
            of_models = [name for name in ("model", "steps", "resamples", "coarse") if name in self.given()]
            if of_models:
                raise UsageError(f"--{of_models[0]} is for a model: give --method inpaint, which has one")
        return self

    @property
    def painted_by(self) -> str:
        """The method: as asked, else what goes with the model."""
        return self.method or ("patches" if self.model == DEFAULT_DENOISER else "inpaint")
