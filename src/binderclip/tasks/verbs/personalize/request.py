"""What `personalize` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field

from binderclip.tasks.diffusion import DEFAULT_DENOISER, DenoiserName, Seed
from binderclip.tasks.fields import Device
from binderclip.tasks.request import Option, Request


def _new_word(word: str) -> str:
    from binderclip.generate.personalization.concept import check_new_word

    check_new_word(word)
    return word


class PersonalizeRequest(Request):
    """Teach a diffusion model a word for what is on your pictures, and save what it learned.

    Examples:

        binderclip personalize my-dog/ --class dog --token "<mine>" --out my-dog-word

        binderclip personalize my-dog/ --class dog --token "<mine>" --model stable-diffusion-v1-5/ --device cuda

    Three to six pictures of one thing do. What is learned fits the model that learned it, and no other. Stopped
    half-way, it saves what it has. The loss of ClassDiffusion (--preserve) keeps the word near its class, so that it
    goes on to compose with other words; without it (0) this is Custom Diffusion.
    """

    task: ClassVar[str] = "personalize"

    images: Annotated[
        list[str],
        Field(min_length=1),
        Option("Pictures of one thing, or a folder of them.", positional=True, metavar="FOLDER"),
    ]
    class_name: Annotated[str, Option("What it is one of, such as `dog`.", ("--class",))]
    token: Annotated[str, AfterValidator(_new_word), Option("The new word, in angle brackets.")] = "<mine>"
    out: Annotated[
        str | None,
        Option("Folder of what is learned [default: the word].", ("--out", "-o"), output=True),
    ] = None
    init: Annotated[str | None, Option("Words that the new one begins as [default: the class].")] = None
    preserve: Annotated[
        float, Field(ge=0, le=1000), Option("Weight of the loss that keeps the word near its class.")
    ] = 1.0
    released: Annotated[bool, Option("Compute that loss as the authors' code does, not as their paper.")] = False
    steps: Annotated[int, Field(ge=1, le=100_000), Option("Training steps.")] = 500
    batch_size: Annotated[int, Field(ge=1, le=64), Option("Pictures a step.")] = 2
    lr: Annotated[
        float | None,
        Field(ge=1e-8, le=1),
        Option("Of keys and values [default: 1e-5 a picture of the batch; 1e-4 for a model of up to 128 px]."),
    ] = None
    word_lr: Annotated[
        float | None,
        Field(ge=1e-8, le=1),
        Option("Of the word [default: that of keys and values; 1e-3 for a model of up to 128 px]."),
    ] = None
    model: DenoiserName = DEFAULT_DENOISER
    seed: Seed = 0
    device: Device = "cpu"
