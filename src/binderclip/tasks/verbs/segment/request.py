"""What `segment` is asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from pydantic import Field, model_validator

from binderclip.errors import UsageError
from binderclip.models.files.registry import DEFAULT, has_concepts
from binderclip.tasks.arguments.labels import labels_text, parse_labels
from binderclip.tasks.fields import Device, Dtype, Images, Labels, Model
from binderclip.tasks.request import Option, Request
from binderclip.tasks.verbs.segment.fields import Coco, Csv, LabelMap, Legend, Out, Overlay, Redo

NONE = "none"
"""Of --background: no words, so that every pixel gets a label."""


def parse_background(text: str) -> list[str]:
    """The words of --background; none of `none`."""
    return [] if text.strip() in ("", NONE) else parse_labels(text.strip(), "--background")


def background_text(words: list[str]) -> str:
    """The inverse of `parse_background`."""
    return labels_text(words) if words else NONE


Preset = Annotated[
    str | None,
    Option(
        "The method; `segment-presets` says what each is for. Several with commas: each in a folder, or compared, or "
        "measured. [default: photograph, which cuts objects out, with everyday; clip_dinoiser, which finds the ground, "
        "with small; with others clip_dinoiser-teacher]"
    ),
]
Changes = Annotated[
    list[str],
    Option("Change a part of the preset: `rule.scale=40`, `refine=pamr`.", ("--set", "-s"), metavar="KEY=VALUE"),
]
Size = Annotated[
    int | None,
    Field(ge=1, le=4096),
    Option("Shorter side at which the model sees the image, in pixels [default: the preset's]."),
]


class SegmentRequest(Request):
    """Colour images by your labels (open vocabulary, nothing is trained), and save the label maps.

    Examples:

        binderclip segment street.jpg --labels "car,tree,house"

        binderclip segment street.jpg -l "car,tree,sky,road" --preset value --background none

        binderclip segment photos/ -l person,dog,ball --preset sclip --out masks --csv areas.csv --coco masks.json

        binderclip segment pet.jpg -l cat,dog --preset itaclip --descriptions animals

        binderclip segment photos/ -l person,dog,ball --preset value,sclip,cliper --compare sheet.png

        binderclip segment street.jpg -l "car,tree" --preset value,sclip --out maps

    A folder can be gone on with: images whose label map is there are not done again. By one sentence for all pictures:
    `segment-task`; by an example: `segment-example`; by a trained head: `segment-head`; measured on true label maps:
    `segment-evaluate`.
    """

    task: ClassVar[str] = "segment"
    moved: ClassVar[Mapping[str, str]] = {
        "--task": "segment-task",
        "--example": "segment-example",
        "--mask": "segment-example",
        "--head": "segment-head",
        "--evaluate": "segment-evaluate",
        "--list": "segment-presets",
    }

    images: Images
    labels: Labels
    background: Annotated[
        list[str] | None,
        Option(
            "Words for what is none of the labels, separated by commas; they become one class. `none`: every pixel "
            "gets a label. [default: sky, wall, floor and the like]",
            parse=parse_background,
            write=background_text,
            label="What is none of them",
        ),
    ] = None
    preset: Preset = None
    set: Changes = []
    descriptions: Annotated[
        str | None,
        Option(
            "Definitions or synonyms to mix into the labels' vectors: a JSON of label -> sentences, or a shipped set "
            "(`binderclip descriptions`). For presets with a `text.alpha`, such as itaclip."
        ),
    ] = None
    size: Size = None
    out: Out = None
    overlay: Overlay = None
    legend: Legend = True
    label_map: LabelMap = None
    coco: Coco = None
    csv: Csv = None
    redo: Redo = False
    compare: Annotated[
        str | None,
        Option(
            "Instead of label maps, a PNG with all images by all presets (`--preset all`) side by side.", output=True
        ),
    ] = None
    model: Model = DEFAULT
    device: Device = "cpu"
    dtype: Dtype = "float32"

    @model_validator(mode="after")
    def _fits(self) -> SegmentRequest:
        if repeated := sorted(frozenset(self.background or ()) & frozenset(self.labels)):
            names = ", ".join(map(repr, repeated))
            raise UsageError(f"{names} is a label and background as well; leave it out of one of them")
        if self.compare is not None:
            if self.overlay or self.label_map or self.out or self.coco or self.csv or self.redo:
                raise UsageError(
                    "--compare writes one sheet: leave out --overlay, --map, --out, --coco, --csv and --redo"
                )
            if not self.compare.lower().endswith(".png"):
                raise UsageError(f"--compare {self.compare}: the sheet is a PNG")
        elif len(self.presets) > 1 and (self.overlay or self.label_map or self.coco or self.csv):
            raise UsageError(
                f"--preset {self.preset} names several, each of which gets a folder in --out: leave out --overlay, "
                "--map, --coco and --csv"
            )
        return self

    @property
    def presets(self) -> list[str]:
        """Their names."""
        return preset_names(self.preset or default_preset(self.model), self.model)

    @property
    def ground(self) -> list[str]:
        """The words for what is none of the labels; the usual ones where none are given."""
        if self.background is not None:
            return self.background
        from binderclip.segment import GROUND

        return [word for word in GROUND if word not in self.labels]


def default_preset(model: str) -> str:
    """The preset of those who name none: objects cut out with concepts, else one that finds the ground.

    `clip_dinoiser` stands on a head that was trained for `small`; other towers with attention take its teacher.
    """
    if has_concepts(model):
        return "photograph"
    return {"small": "clip_dinoiser", "small-b": "dense"}.get(model, "clip_dinoiser-teacher")


def preset_names(text: str, model: str | None = None) -> list[str]:
    """What --preset says: names apart by commas, `all` for every one.

    Args:
        text: as the user wrote it.
        model: `all` leaves out what a model of this name has no concepts for; None leaves out nothing.

    Raises:
        UsageError: there is no name.
    """
    from binderclip.segment import PRESETS

    names = list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
    if not names:
        raise UsageError(f"--preset is empty; there are {', '.join(PRESETS)}")
    if names != ["all"]:
        return names
    return [name for name in PRESETS if name != "photograph" or model is None or has_concepts(model)]
