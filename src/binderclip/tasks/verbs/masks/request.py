"""What `masks` is asked."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field

from binderclip.tasks.fields import Device, Images, SegmenterModel
from binderclip.tasks.request import Option, Request


class MasksRequest(Request):
    """Cut out everything in pictures: masks from a grid of points, as COCO annotations and overlays.

    Examples:

        binderclip masks photo.jpg

        binderclip masks photos/ --points-per-side 32 --min-mask-region-area 40 --model hf:facebook/sam-vit-base

    Leaves an overlay and a COCO file of each picture, and masks.json of all. A folder can be gone on with: pictures
    that are done are not done again.
    """

    task: ClassVar[str] = "masks"

    images: Images
    points_per_side: Annotated[int, Field(ge=1, le=256), Option("Points along each side of the grid.")] = 16
    points_per_batch: Annotated[int, Field(ge=1, le=4096), Option("Points that are decoded at once.")] = 64
    pred_iou_thresh: Annotated[
        float | None,
        Field(ge=-100, le=100),
        Option("Least predicted IoU of a mask [default: the model's, or 0.88]."),
    ] = None
    stability_score_thresh: Annotated[
        float | None, Field(ge=0, le=1), Option("Least stability of a mask [default: the model's, or 0.95].")
    ] = None
    stability_score_offset: Annotated[
        float | None,
        Field(ge=0, le=100),
        Option("How far logits are shifted to measure it [default: the model's, or 1]."),
    ] = None
    box_nms_thresh: Annotated[
        float, Field(ge=0.001, le=1), Option("IoU of boxes above which the less sure mask is dropped.")
    ] = 0.7
    crop_n_layers: Annotated[
        int,
        Field(ge=0, le=4),
        Option("Layers of crops that are looked at as well: 1 adds 4 crops, 2 adds 20."),
    ] = 0
    crop_overlap_ratio: Annotated[
        float, Field(ge=0, le=0.99), Option("Overlap of crops, as a share of the shorter side.")
    ] = 512 / 1500
    min_mask_region_area: Annotated[
        int,
        Field(ge=0, le=10**9),
        Option("Islands of fewer pixels are removed, but for the largest; holes filled."),
    ] = 1
    cut: Annotated[
        bool,
        Option("Cut every mask out along the edges of the picture (GrabCut): half a second each.", ("--cut",)),
    ] = False
    out: Annotated[str, Option("Folder of the overlays and COCO files.", ("--out", "-o"), output=True)] = "masks"
    redo: Annotated[bool, Option("Do pictures again that are done already.", ("--redo",))] = False
    model: SegmenterModel = "small-sam"
    device: Device = "cpu"

    @property
    def settings(self) -> dict[str, Any]:
        """What the masks of a picture depend on, beside it, the model and `cut`."""
        return self.model_dump(include=SETTINGS)


SETTINGS = {
    "points_per_side", "pred_iou_thresh", "stability_score_thresh", "stability_score_offset", "box_nms_thresh",
    "crop_n_layers", "crop_overlap_ratio", "min_mask_region_area",
}  # fmt: skip
