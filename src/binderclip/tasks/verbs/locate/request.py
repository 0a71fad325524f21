"""What `locate` is asked."""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.models.files.registry import DEFAULT
from binderclip.tasks.arguments.labels import labels_text, parse_labels
from binderclip.tasks.fields import Device, Dtype, Model
from binderclip.tasks.request import Option, Request


def _presets() -> tuple[str, ...]:
    from binderclip.adapt import PRESETS

    return tuple(PRESETS)


class LocateRequest(Request):
    """Find the region that a text means, among boxes or masks that you give or that are proposed (nothing is trained).

    Examples:

        binderclip locate street.jpg "a red car"

        binderclip locate street.jpg "a red car" "a tree" --boxes boxes.csv

        binderclip locate scene.png "a cat" --masks labels.png --preset fgvp
    """

    task: ClassVar[str] = "locate"

    image: Annotated[str, Option("The image file.", positional=True)]
    texts: Annotated[
        list[str],
        Field(min_length=1),
        Option("What to find, such as `a cat`; several texts are allowed.", positional=True),
    ]
    boxes: Annotated[
        str | None,
        Option("Regions: CSV lines `x0,y0,x1,y1[,name]` or a JSON list, pixels of the image.", ("--boxes", "-b")),
    ] = None
    masks: Annotated[
        list[str],
        Option(
            "Exact masks: a PNG label map (0 is background), or one mask PNG a region (repeat, or name a folder). With "
            "--boxes one for each box, in order.",
            ("--masks",),
        ),
    ] = []
    proposals: Annotated[
        str, Option("Without --boxes and --masks: the promptable segmenter that proposes regions, as `masks` does.")
    ] = "small-sam"
    points_per_side: Annotated[
        int, Field(ge=1, le=256), Option("Points along each side that proposals are asked at.")
    ] = 16
    preset: Annotated[
        str,
        Option(
            "What is shown to the model for each region: `reclip` (the crop, and the image blurred outside it), "
            "`crop`, `red-circle`, `fgvp` (needs --masks), `falip` (attention; no pixel changes).",
            choices=_presets,
        ),
    ] = "reclip"
    assign: Annotated[
        str,
        Option(
            "`argmax`: each text by itself; `hungarian`, `sinkhorn`: one region for each text.",
            choices=lambda: ("argmax", "hungarian", "sinkhorn"),
        ),
    ] = "argmax"
    negatives: Annotated[
        list[str] | None,
        Option(
            "Texts whose mean score is subtracted, separated by commas, or `@FILE`.",
            parse=partial(parse_labels, option="--negatives"),
            write=labels_text,
        ),
    ] = None
    templates: Annotated[
        str | None,
        Option("Put around each text: a set, or one template with `{}`.", ("--templates", "-t")),
    ] = None
    picture: Annotated[
        str | None,
        Option("PNG with the chosen boxes drawn [default: NAME-located.png].", ("--picture",), output=True),
    ] = None
    model: Model = DEFAULT
    device: Device = "cpu"
    dtype: Dtype = "float32"

    @property
    def proposed(self) -> bool:
        """Whether regions are proposed, since none are given."""
        return self.boxes is None and not self.masks

    @model_validator(mode="after")
    def _fits(self) -> LocateRequest:
        from binderclip.adapt import PRESETS

        # What is no preset is refused with the other choices.
        if self.preset in PRESETS and PRESETS[self.preset].masks and not self.masks and not self.proposed:
            raise UsageError(f"--preset {self.preset} draws on exact masks: give --masks, or another preset")
        return self
