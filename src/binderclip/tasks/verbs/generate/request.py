"""What `generate` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.diffusion import (
    DEFAULT_DENOISER,
    DenoiserName,
    Guidance,
    PersonalWordFolder,
    PictureSize,
    Seed,
    Steps,
)
from binderclip.tasks.fields import Device
from binderclip.tasks.request import Option, Request

OF_MODELS = ("model", "personal", "guidance", "sync", "controlnet", "control_image", "conditioning_scale")
"""Fields that say nothing where there is no model."""


class GenerateRequest(Request):
    """Draw pictures of texts by a diffusion model, or out of patches of your own pictures.

    Examples:

        binderclip generate "a purple heart" "grinning face" --count 4 --seed 7

        binderclip generate "a forest" --size 512x1024 --sync --model stable-diffusion-v1-5/

        binderclip generate "a <mine> dog on a beach" --personal my-dog-word --model stable-diffusion-v1-5/

        binderclip generate "a lighthouse" --controlnet sd-controlnet-canny/ --control-image edges.png \
            --model stable-diffusion-v1-5/

        binderclip generate "a smiling face" --from-folder icons/

    The bundled model is small: it draws plain shapes and, roughly, emoji of 64 px. A folder of a diffusers pipeline
    goes in by --model. Every picture has a seed of its own, by which it is drawn again. Wider pictures are drawn as
    windows that share what they have in common; --sync lets them agree on style as well. A ControlNet steers by a
    picture of edges, depth or poses, which is resized to the size of what is drawn. With --from-folder nothing was
    trained: pictures are mosaics of patches of the folder's pictures that fit the text, and no better than these are
    alike.
    """

    task: ClassVar[str] = "generate"

    texts: Annotated[
        list[str],
        Field(min_length=1, max_length=1000),
        Option("What is to be drawn, a text or several.", positional=True),
    ]
    count: Annotated[int, Field(ge=1, le=1000), Option("Pictures of each text.", label="Pictures")] = 1
    guidance: Guidance = 4.0
    steps: Steps = 30
    seed: Seed = 0
    size: PictureSize = None
    sync: Annotated[
        bool,
        Option("Let the windows of a wider picture agree on style; takes far longer.", label="Windows agree"),
    ] = False
    from_folder: Annotated[
        str | None,
        Option("Draw without a model, out of patches of the pictures in this folder.", label="Folder to draw from"),
    ] = None
    nearest: Annotated[
        int,
        Field(ge=1, le=500),
        Option("Pictures of that folder that are used: those that fit the text best.", label="Pictures of the folder"),
    ] = 24
    reach: Annotated[
        int,
        Field(ge=0, le=16),
        Option(
            "Pixels that a patch of them may be moved by; the time grows with its square.",
            label="Pixels that a patch moves",
        ),
    ] = 1
    out: Annotated[str, Option("Folder of the pictures, the sheet and the table.", ("--out", "-o"), output=True)] = (
        "generated"
    )
    model: DenoiserName = DEFAULT_DENOISER
    personal: PersonalWordFolder = None
    controlnet: Annotated[
        str | None,
        Option("Folder of a ControlNet in diffusers' layout that was trained for this model.", label="ControlNet"),
    ] = None
    control_image: Annotated[
        str | None,
        Option("Picture that the ControlNet reads: edges, depth or poses, as it was trained on, of the same shape."),
    ] = None
    conditioning_scale: Annotated[
        float,
        Field(ge=0, le=2),
        Option("How much the ControlNet counts: 1 as it was trained, 0 not at all.", label="Weight of the ControlNet"),
    ] = 1.0
    device: Device = "cpu"

    @model_validator(mode="after")
    def _fits(self) -> GenerateRequest:
        if self.from_folder is not None:
            unused = [name for name in OF_MODELS if name in self.given()]
            if unused:
                flag = unused[0].replace("_", "-")
                raise UsageError(f"--{flag} does not go with --from-folder, which draws without a model")
            return self
        asked = [name for name in ("nearest", "reach") if name in self.given()]
        if asked:
            raise UsageError(f"--{asked[0]} is for --from-folder: give a folder of pictures, or leave it out")
        if self.sync and self.size is None:
            raise UsageError("--sync is for pictures wider than the model's: give --size, such as 64x256")
        return self

    @model_validator(mode="after")
    def _steered(self) -> GenerateRequest:
        if self.controlnet is None:
            if self.control_image is not None:
                raise UsageError("--control-image needs --controlnet: the folder of the ControlNet that reads it")
            if "conditioning_scale" in self.given():
                raise UsageError("--conditioning-scale goes with --controlnet: give the folder of one, or leave it out")
        elif self.control_image is None:
            raise UsageError("--controlnet needs --control-image: the picture that it reads, such as edges")
        elif self.model == DEFAULT_DENOISER:
            raise UsageError(
                f"--controlnet needs the model that it was trained for, which {DEFAULT_DENOISER} is not: give the "
                "folder of a diffusers pipeline by --model"
            )
        return self
