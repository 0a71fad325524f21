"""What `landscape` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.tasks.fields import (
    MOST_SEED,
    SPREAD,
    BatchSize,
    Device,
    Dtype,
    HeldOutSplit,
    ModelArgument,
    NameSentences,
)
from binderclip.tasks.request import Option, Request


class LandscapeRequest(Request):
    """Draw the loss of a model around its weights: over a plane, along a line, and what both say.

    Examples:

        binderclip landscape small --data noto-emoji --limit 64 --points 7

        binderclip landscape runs/mine --data pets/ --out mine.html

    The loss is that of naming every picture by its class, or by its caption among all captions where there are no
    classes. Directions are random and scaled filter by filter, so that pages of two models can be compared. The numbers
    stand beside the page, in a JSON file of its name. Ctrl-C leaves a page of the points so far, those nearest to the
    model first.
    """

    task: ClassVar[str] = "landscape"

    model: ModelArgument
    data: Annotated[str, Option("Pictures with captions or class-named folders, or a named set.")] = "openmoji"
    split: HeldOutSplit = None
    templates: NameSentences = "name"
    limit: Annotated[int, Field(ge=2, le=10**5), SPREAD] = 128
    points: Annotated[
        int,
        Field(ge=3, le=401),
        Option("Places along each side where the loss is measured; odd numbers have the model."),
    ] = 11
    radius: Annotated[
        float,
        Field(ge=1e-3, le=100),
        Option("How far the weights are moved to either side: at 1 each filter as far as it is long."),
    ] = 1.0
    seed: Annotated[
        int, Field(ge=0, le=MOST_SEED), Option("Of the directions: the same seed gives the same plane.")
    ] = 0
    out: Annotated[str, Option("The page, and beside it its numbers.", ("--out", "-o"), output=True)] = "landscape.html"
    report: Annotated[bool, Option("Write the page and its numbers.")] = True
    device: Device = "cpu"
    dtype: Dtype = "float32"
    batch_size: BatchSize = 64
