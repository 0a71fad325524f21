"""What `segment-evaluate` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from binderclip.tasks.fields import Device, Dtype, Model
from binderclip.tasks.request import Option, Request
from binderclip.tasks.verbs.segment.request import (
    Changes,
    Preset,
    Size,
    background_text,
    default_preset,
    parse_background,
    preset_names,
)


class SegmentEvaluateRequest(Request):
    """Measure presets of `segment` on true label maps, with intervals against the first.

    Examples:

        binderclip segment-evaluate scenes-hard --preset value,sclip,cliptrase

        binderclip segment-evaluate VOC2012/ --preset value,corrclip --limit 1449 --model open_clip:ViT-B-16/openai
    """

    task: ClassVar[str] = "segment-evaluate"

    data: Annotated[str, Option("A folder with label maps (VOC, ADE), or `scenes`, `scenes-hard`.", positional=True)]
    background: Annotated[
        list[str] | None,
        Option(
            "Words for what is none of the classes, separated by commas; they become one class. [default: none]",
            parse=parse_background,
            write=background_text,
        ),
    ] = None
    preset: Preset = None
    set: Changes = []
    size: Size = None
    limit: Annotated[int, Field(ge=1, le=10_000), Option("Most pictures that are measured.")] = 60
    # Made scenes are of drawings, which the measured presets were chosen on with the tower alone.
    model: Model = "small"
    device: Device = "cpu"
    dtype: Dtype = "float32"

    @property
    def presets(self) -> list[str]:
        """Their names."""
        return preset_names(self.preset or default_preset(self.model), self.model)
