"""What `segment-head` is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import model_validator

from binderclip.errors import UsageError
from binderclip.files import why_no_folder
from binderclip.tasks.fields import Device, Images, Labels, Model
from binderclip.tasks.request import Option, Request
from binderclip.tasks.verbs.segment.fields import Coco, Csv, LabelMap, Legend, Out, Overlay, Redo


class SegmentHeadRequest(Request):
    """Colour images by a head that was trained and saved, and save the label maps.

    Examples:

        binderclip segment-head photos/ --head runs/first/stages/00-head/head

    Heads come from `train` (`segmentation-head`, `segclip`, `sam-clip`). A folder can be gone on with: images whose
    label map is there are not done again.
    """

    task: ClassVar[str] = "segment-head"

    images: Images
    head: Annotated[str, Option("The folder of the head.")]
    labels: Labels | None = None
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
    def _fits(self) -> SegmentHeadRequest:
        from binderclip.models.files.folders import folder_kind

        if not Path(self.head).is_dir():
            raise UsageError(f"--head: {why_no_folder(self.head)}")
        if folder_kind(self.head) == "few-shot":
            raise UsageError(f"--head {self.head} finds what an example shows: that is segment-example")
        return self
