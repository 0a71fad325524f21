"""What `segment-example` is asked."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.tasks.fields import Device, Images, Model
from binderclip.tasks.request import Option, Request
from binderclip.tasks.verbs.segment.fields import Coco, Csv, LabelMap, Legend, Out, Overlay, Redo

UNTRAINED = ("prior", "prototype")
"""Heads without training, on the features of --model."""


class SegmentExampleRequest(Request):
    """Find what a picture shows with its mask in other pictures, and save label maps (nothing is trained).

    Examples:

        binderclip segment-example photos/ --example cup.jpg --mask cup-mask.png --label cup --coco cups.json

    Several examples are asked one by one and vote. A folder can be gone on with: images whose label map is there are
    not done again.
    """

    task: ClassVar[str] = "segment-example"

    images: Images
    example: Annotated[
        list[str],
        Field(min_length=1),
        Option("A picture that shows what is wanted. Repeat for several.", ("--example",), metavar="PICTURE"),
    ]
    mask: Annotated[
        list[str],
        Field(min_length=1),
        Option(
            "Of each example: a picture of the same size, white or not 0 where the thing is.", ("--mask",),
            metavar="MASK",
        ),
    ]  # fmt: skip
    mask_value: Annotated[int | None, Field(ge=0, le=65535), Option("Which number of a label map is the thing.")] = None
    label: Annotated[str, Option("What the thing is called.", ("--label", "-l"))] = "object"
    head: Annotated[
        str,
        Option(
            "`prototype` or `prior`, rules without training on the features of --model (also lite0 and small-dino), or "
            "a folder of `segment.save_few_shot`."
        ),
    ] = "prototype"
    out: Out = None
    overlay: Overlay = None
    legend: Legend = True
    label_map: LabelMap = None
    coco: Coco = None
    csv: Csv = None
    redo: Redo = False
    model: Model = "small"
    device: Device = "cpu"

    @model_validator(mode="after")
    def _fits(self) -> SegmentExampleRequest:
        if len(self.example) != len(self.mask):
            raise UsageError(
                "--example and --mask go together, one mask for each picture, not "
                f"{len(self.example)} and {len(self.mask)}"
            )
        if self.label == "background":
            raise UsageError("--label background: what --example shows cannot be called background")
        return self
