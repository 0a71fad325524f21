"""Fields that the tasks which run a diffusion model share; `sampling` is the work."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from binderclip.errors import UsageError
from binderclip.tasks.fields import MOST_SEED
from binderclip.tasks.request import Option

DEFAULT_DENOISER = "small-diffusion"
"""The bundled denoiser."""
MOST_SIDE = 4096


def parse_size(value: Any) -> Any:
    """Height and width of `64x256`.

    Raises:
        UsageError: anything else.
    """
    if value is None or isinstance(value, (tuple, list)):
        return value
    sides = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", str(value).strip().lower())
    if sides is None:
        raise UsageError(f"--size {value!r} is not HEIGHTxWIDTH in pixels, such as 64x256")
    size = int(sides[1]), int(sides[2])
    if not 8 <= min(size) <= max(size) <= MOST_SIDE:
        raise UsageError(f"--size {value!r}: sides must be from 8 to {MOST_SIDE} px")
    return size


def size_text(size: Sequence[int]) -> str:
    """A size as people write it."""
    return "x".join(map(str, size))


DenoiserName = Annotated[
    str,
    Option(
        f"`{DEFAULT_DENOISER}`, or the folder of a diffusers pipeline of Stable Diffusion's layout.",
        ("--model", "-m"),
        label="Diffusion model",
    ),
]
Guidance = Annotated[
    float,
    Field(ge=0, le=100),
    Option("How much the text is followed: 1 is the model's own answer, 0 leaves the text out.", label="Guidance"),
]
Steps = Annotated[int, Field(ge=1, le=1000), Option("Steps from noise to picture.")]
Seed = Annotated[int, Field(ge=0, le=MOST_SEED), Option("The same seed gives the same picture, another one another.")]
PersonalWordFolder = Annotated[
    str | None,
    Option("Folder of a word that `personalize` has taught this model, such as `<mine>`; the text may hold it."),
]
PictureSize = Annotated[
    tuple[int, int] | None,
    BeforeValidator(parse_size),
    Option(
        "Height x width in pixels, such as `64x256` [default: the model's own].",
        metavar="HxW",
        parse=parse_size,
        write=size_text,
    ),
]
Coarse = Annotated[
    bool,
    Option(
        "Paint also where the model sees more than 4 pixels as one, which makes a blur.",
        ("--coarse",),
        label="Accept a blur",
    ),
]
