"""What `inpaint` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.tasks.diffusion import DEFAULT_DENOISER, Coarse, DenoiserName, Guidance, PersonalWordFolder, Seed, Steps
from binderclip.tasks.fields import Device
from binderclip.tasks.request import Option, Request
from binderclip.tasks.verbs.erase.request import MaskOut, Picture, Resamples, Sheet


class InpaintRequest(Request):
    """Paint what a text says into a mask; the rest of the picture stays bit for bit.

    Examples:

        binderclip inpaint photo.jpg --mask photo-mask.png --text "a red apple"

        binderclip inpaint photo.jpg --mask photo-mask.png --text grass --model stable-diffusion-inpainting/

    A picture larger than the model's side is cropped around the mask; where that crop is more than four times as large
    as the model's side, what comes back would be a blur, and only `--coarse` asks for it. A mask is a picture of the
    same size, white where the new content belongs: `click` makes one of a point.
    """

    task: ClassVar[str] = "inpaint"

    image: Annotated[str, Option("The image file.", positional=True)]
    mask: Annotated[str, Option("Picture of the same size, white where the new content belongs.")]
    text: Annotated[str, Option("What belongs there.", ("--text", "-t"))]
    grow: Annotated[int, Field(ge=0, le=512), Option("Pixels by which the mask is made larger.")] = 0
    model: DenoiserName = DEFAULT_DENOISER
    personal: PersonalWordFolder = None
    guidance: Guidance = 7.5
    steps: Steps = 50
    resamples: Resamples = None
    coarse: Coarse = False
    seed: Seed = 0
    out: Picture = None
    mask_out: MaskOut = None
    sheet: Sheet = None
    device: Device = "cpu"
