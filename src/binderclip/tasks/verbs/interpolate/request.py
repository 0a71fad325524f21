"""What `interpolate` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.tasks.fields import BatchSize, Device, Dtype, HeldOutSplit, NameSentences, SpreadPictures
from binderclip.tasks.request import Option, Request


class InterpolateRequest(Request):
    """Find the best model between two of one architecture, and the layers that break the way between them.

    Examples:

        binderclip interpolate small runs/mine --data pets/

        binderclip interpolate small runs/mine --data pets/ --save runs/between

    The first model is usually the one that the second was fine-tuned from. The weight of the second is chosen on one
    half of the pictures, and what it is worth is said of the other half. Layers are then taken back to the first model,
    one by one: where the error rises above the straight line by more than so many pictures vary, it breaks the way.
    """

    task: ClassVar[str] = "interpolate"

    first: Annotated[str, Option("The model at weight 0, such as the pre-trained one.", positional=True)]
    second: Annotated[str, Option("The model at weight 1, such as a run folder.", positional=True)]
    data: Annotated[str, Option("Pictures with captions or class-named folders, or a named set.")]
    split: HeldOutSplit = None
    templates: NameSentences = "name"
    limit: SpreadPictures = 256
    points: Annotated[int, Field(ge=3, le=101), Option("Models that are measured, both ends among them.")] = 11
    layers: Annotated[bool, Option("Look for the layers that break the way.")] = True
    save: Annotated[str | None, Option("Also save the best model, as a folder.", output=True)] = None
    out: Annotated[str, Option("The page: curve and layers.", ("--out", "-o"), output=True)] = "interpolate.html"
    report: Annotated[bool, Option("Write the page.")] = True
    device: Device = "cpu"
    dtype: Dtype = "float32"
    batch_size: BatchSize = 64
